"""Replicas of a staged model under a straggler that moves on: `ssp` beside `sync`, over several seeds.

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

from tests.bench.contest import Comparison, Samples
from tests.bench.results import Section, Table
from tests.guarantees import read
from tests.load.forks import fork, warm_up

REPLICAS = STAGES = 2
PACE_SECONDS, SLOW_SECONDS, TURNS = 0.1, 0.5, 2
BATCH, MICRO_BATCHES, CUT = 32, 4, "3,3"
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


def under_a_straggler(data_dir: Path, seeds: int, steps: int) -> Section:
    section = Section(
        f"Replicas: {REPLICAS} x {STAGES} stages under a straggler that moves on",
        f"MNIST 2NN, B = {BATCH} in {MICRO_BATCHES} micro-batches, cut {CUT}, {steps} iterations of each replica, seeds"
        f" 0 to {seeds - 1}. An iteration sleeps {PACE_SECONDS:g} s, and {SLOW_SECONDS:g} s more where its replica is"
        f" the slow one, which is each for {TURNS} iterations in turn.",
    )
    warm_up()
    found = {mode: [run(mode, seed, steps, data_dir) for seed in range(seeds)] for mode in MODES}
    sync, ssp = found.values()
    rates = {mode: Samples(tuple(one.rate for one in runs)) for mode, runs in found.items()}
    worst = max(one.loss for one in sync)
    section.comparisons = [
        Comparison("ssp(3)", "iterations/s", rates["ssp(3)"], "sync", rates["sync"], 1.5),
        Comparison(
            "held-out loss of ssp(3), mean of its seeds",
            "",
            Samples((mean(one.loss for one in ssp),)),
            "sync, its worst seed",
            Samples((worst,)),
            1.0,
            fewer=True,
        ),
    ]
    section.tables.append(
        Table(
            "Held-out loss in the end",
            tuple(f"seed {seed}" for seed in range(seeds)),
            {mode: [f"{one.loss:.4f}" for one in runs] for mode, runs in found.items()},
        )
    )
    return section


def run(mode: str, seed: int, steps: int, data_dir: Path) -> Run:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        serve = ["--port", "0", "--workers", str(REPLICAS), "--until", str(steps), *MODES[mode]]
        serve += ["--history", str(folder / "history.jsonl")]
        server = stack.enter_context(fork("server", "leeway.ps.cli:main", serve, folder))
        flags = ["mnist", "--model", "2nn", "--batch-size", str(BATCH), "--micro-batches", str(MICRO_BATCHES)]
        flags += ["--cut", CUT, "--server", *server.lines(), "--data-dir", str(data_dir), "--seed", str(seed)]
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
