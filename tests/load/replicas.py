"""Replicas of a staged model under a straggler that moves on: `ssp` beside `sync`, over several seeds.

    python -m tests.load.replicas --data-dir data

The one rule: computing is mostly sleep, so that few cores serve all stages; each system is given the same seeds and the
same number of iterations, and its learning rate is that of one step for all replicas together.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import click

from tests.guarantees import read
from tests.load.forks import fork, warm_up

REPLICAS = STAGES = 2
PACE_SECONDS, SLOW_SECONDS, TURNS = 0.05, 0.25, 2
TASK = ("mnist", "--model", "2nn", "--batch-size", "32", "--micro-batches", "4", "--cut", "3,3")
# Under ssp each replica's update is a step of its own.
MODES = {
    "sync": ("--mode", "sync", "--lr", "0.1"),
    "ssp(3)": ("--mode", "ssp", "--staleness", "3", "--lr", str(0.1 / REPLICAS)),
}
RUN_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Run:
    """`loss`: on the held-out data, in the end. `rate`: iterations of replicas a second."""

    loss: float
    rate: float


def run(mode: str, seed: int, steps: int, data_dir: Path) -> Run:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        serve = ["--port", "0", "--workers", str(REPLICAS), "--until", str(steps), *MODES[mode]]
        serve += ["--history", str(folder / "history.jsonl")]
        server = stack.enter_context(fork("server", "leeway.ps.cli:main", serve, folder))
        flags = [*TASK, "--server", *server.lines(), "--data-dir", str(data_dir), "--seed", str(seed)]
        flags += ["--stages", str(STAGES), "--start-together", str(REPLICAS), "--log-format", "json"]
        flags += ["--pace", str(PACE_SECONDS), "--slow", str(SLOW_SECONDS), "--slow-turns", str(TURNS)]
        stages = []
        for rank, stage in ((rank, stage) for rank in range(REPLICAS) for stage in range(STAGES)):
            own = ["--rank", f"w{rank}", "--stage", str(stage)]
            stages.append(
                stack.enter_context(fork(f"w{rank}.{stage}", "leeway.worker.train.cli:main", [*flags, *own], folder))
            )
        for process in (*stages, server):
            process.end(RUN_SECONDS)
            if process.exit_code:
                raise process.failure()
        return Run(_loss(folder / f"w0.{STAGES - 1}.err"), _rate(folder / "history.jsonl"))


def _loss(log: Path) -> float:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return float(next(row["loss"] for row in rows if row["event"] == "evaluated"))


def _rate(history: Path) -> float:
    """From the first update that was accepted to the last."""
    times = [row["t"] for row in read(history) for effect in row.get("effects", ()) if effect["is"] == "Accepted"]
    return (len(times) - 1) / (times[-1] - times[0])


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("data"), envvar="PS_DATA_DIR")
@click.option("--seeds", default=3, show_default=True)
@click.option("--steps", default=60, show_default=True)
def main(data_dir: Path, seeds: int, steps: int) -> None:
    warm_up()
    found = {mode: [run(mode, seed, steps, data_dir) for seed in range(seeds)] for mode in MODES}
    print(f"{REPLICAS} replicas x {STAGES} stages, {steps} iterations, seeds 0 to {seeds - 1}")
    for mode, runs in found.items():
        losses = ", ".join(f"{one.loss:.4f}" for one in runs)
        print(f"{mode:7} {mean(one.rate for one in runs):5.2f} iterations/s, held-out loss {losses}")
    sync, ssp = found["sync"], found["ssp(3)"]
    low, high = min(one.loss for one in sync), max(one.loss for one in sync)
    times = mean(one.rate for one in ssp) / mean(one.rate for one in sync)
    print(f"ssp(3): {times:.2f} x the iterations of sync (wanted: 1.5 x)")
    print(f"ssp(3): mean loss {mean(one.loss for one in ssp):.4f}, and sync from {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    main()
