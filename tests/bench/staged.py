"""One stage of a pipeline, of ours or of torch's, for as long as it is let run.

A program: `python -m tests.bench.staged SYSTEM FOLDER STAGE STAGES ...`. It writes a line of JSON for each step to
FOLDER/STAGE.steps: when it ended, by a clock that all processes of the machine share, and what it was.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import distributed, nn

import leeway
from tests.bench import staged_models

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = timedelta(seconds=60)


def _tell(log: IO[str], **figures: Any) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    log.write(json.dumps({"at": time.monotonic(), "peak_bytes": peak, **figures}) + "\n")


def _made(options: argparse.Namespace) -> tuple[nn.Sequential, Callable[[int], Any], Any]:
    """The model on the meta device, its batches and its loss."""
    with torch.device("meta"):
        if options.model == "transformer":
            return staged_models.transformer(), staged_models.batch, staged_models.loss
        nothing = torch.zeros(staged_models.MICRO_BATCHES, 1, device="cpu")
        model = staged_models.sleepers(options.slow, options.slowness)
        return model, lambda number: (nothing, nothing), staged_models.quiet_loss


def leeways(options: argparse.Namespace, log: IO[str]) -> None:
    model, batch, loss = _made(options)
    with leeway.connect(options.url, rank="r0") as session:
        pipeline = session.pipeline(
            model,
            stages=options.stages,
            stage=options.stage,
            micro_batches=options.micro_batches,
            loss=loss,
            cut=options.cut,
            example=batch(0)[0] if options.cut == "time" else None,
            schedule=options.schedule,
            wire_dtype="bfloat16" if options.bfloat16 else None,
        )
        while not pipeline.finished:
            pipeline.step(*batch(pipeline.committed))
            done, carried = pipeline.last, pipeline.carried
            assert done is not None
            _tell(
                log,
                computed=done.computed_seconds,
                waited=done.waited_seconds,
                pushed=pipeline.times.push_seconds + pipeline.times.wait_seconds + pipeline.times.pull_seconds,
                handed_bytes=carried.sent_bytes,
                layers=len(list(pipeline.module.children())),
            )


def torchs(options: argparse.Namespace, log: IO[str]) -> None:
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    if Path("/sys/class/net/lo").exists():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{options.folder.resolve()}/rendezvous",
        rank=options.stage,
        world_size=options.stages,
        timeout=TIMEOUT,
    )
    torch.manual_seed(0)
    sizes = [int(size) for size in options.cut.split(",")]
    begin = sum(sizes[: options.stage])
    model = staged_models.transformer()[begin : begin + sizes[options.stage]]
    stage = PipelineStage(model, options.stage, options.stages, torch.device("cpu"))
    schedules = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}
    schedule = schedules[options.schedule](stage, options.micro_batches, loss_fn=staged_models.loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    number = 0
    while True:
        inputs, targets = staged_models.batch(number)
        optimizer.zero_grad()
        first, last = options.stage == 0, options.stage == options.stages - 1
        schedule.step(*([inputs] if first else []), **({"target": targets} if last else {}))
        optimizer.step()
        number += 1
        _tell(log)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("system", choices=["leeway", "torch"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("stage", type=int)
    parser.add_argument("stages", type=int)
    parser.add_argument("--url", default="")
    parser.add_argument("--model", choices=["transformer", "sleepers"], default="transformer")
    parser.add_argument("--slow", type=int, default=-1)
    parser.add_argument("--slowness", type=float, default=1.0)
    parser.add_argument("--cut", required=True)
    parser.add_argument("--schedule", default="1f1b")
    parser.add_argument("--micro-batches", type=int, default=staged_models.MICRO_BATCHES)
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    with (options.folder / f"{options.stage}.steps").open("w", buffering=1) as log:
        {"leeway": leeways, "torch": torchs}[options.system](options, log)


if __name__ == "__main__":
    main()
