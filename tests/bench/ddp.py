"""One rank of the same training under DistributedDataParallel over gloo: what people compare with first.

The one rule: the same task, the same batches and the same sleeps as `ps-worker` has them, from the same code.

A program: `python -m tests.bench.ddp FOLDER RANK WORLD TASK` and the options of `ps-worker` that it knows. It writes a
line for each step to FOLDER/RANK.steps, and runs until it is ended: when the step ended, how long it took, how long its
forward and backward pass, all-reduce included, and how long of that it had its own gradients already. In seconds.
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from leeway.worker.train.config import WorkerConfig
from leeway.worker.train.data.partition import ShuffleAndSplit
from leeway.worker.train.tasks.task import resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT = timedelta(seconds=60)


class _Computing:
    """`done`: when the newest of the module's gradients was computed; the all-reduce goes on after the last."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.done = 0.0
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self._computed)

    def _computed(self, parameter: torch.Tensor) -> None:
        self.done = time.perf_counter()


def train(config: WorkerConfig, folder: Path, rank: int, world: int, lr: float, snapshot_seconds: float) -> None:
    """Train for ever. With `snapshot_seconds` rank 0 saves the parameters about so often: FOLDER/STEP.safetensors."""
    torch.manual_seed(config.seed)
    task = resolve(config.task)(config.data_dir, config.model)
    partition = ShuffleAndSplit(task.train_samples(), config.batch_size, config.seed)
    model = task.model(config.seed)
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    computing = _Computing(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=lr)
    device = torch.device("cpu")
    step = 0
    distributed.barrier()
    saved = time.perf_counter()
    with (folder / f"{rank}.steps").open("w", buffering=1) as log:
        while True:
            began = time.perf_counter()
            inputs, targets = task.batch(partition.batch(step, rank, world), device)
            time.sleep(config.sleep_seconds(step, rank, world))
            slept = time.perf_counter()
            task.loss(parallel, inputs, targets).backward()  # type: ignore[no-untyped-call]
            computed = time.perf_counter()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            ended = time.perf_counter()
            log.write(f"{ended:.6f} {ended - began:.6f} {computed - slept:.6f} {computed - computing.done:.6f}\n")
            if snapshot_seconds and rank == 0 and ended - saved >= snapshot_seconds:
                saved = ended
                # Under its name only when it is complete: the end may come at any moment.
                save_file(model.state_dict(), folder / "unfinished")
                (folder / "unfinished").rename(folder / f"{step}.safetensors")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("rank", type=int)
    parser.add_argument("world", type=int)
    parser.add_argument("task")
    parser.add_argument("--model")
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--slow-turns", type=int)
    parser.add_argument("--slow-tail", type=float)
    parser.add_argument("--interface", default="lo" if Path("/sys/class/net/lo").exists() else None)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--snapshot-seconds", type=float, default=0.0)
    options = parser.parse_args(arguments)
    config = WorkerConfig(
        task=options.task,
        server="http://127.0.0.1",
        rank=f"w{options.rank}",
        model=options.model,
        batch_size=options.batch_size,
        data_dir=options.data_dir,
        seed=options.seed,
        pace_seconds=options.pace,
        slow_seconds=options.slow,
        slow_turns=options.slow_turns,
        slow_tail=options.slow_tail,
    )
    if options.interface:
        os.environ["GLOO_SOCKET_IFNAME"] = options.interface
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{options.folder.resolve()}/rendezvous",
        rank=options.rank,
        world_size=options.world,
        timeout=TIMEOUT,
    )
    train(config, options.folder, options.rank, options.world, options.lr, options.snapshot_seconds)


if __name__ == "__main__":
    main()
