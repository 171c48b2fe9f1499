"""Time to 97 % on the first 2,000 test images, with the straggler that moves.

The one rule: the time is that of the first saved set of parameters that reaches the target, from the run's first
step. Sets are saved about every second and evaluated when the run is over; while it runs, one now and then, to know
when to stop, which costs every system the same small share of a core.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.mnist import Mnist
from tests.bench.contest import Comparison, Samples
from tests.bench.jobs import Job, Straggler, System
from tests.bench.results import Section, Table
from tests.bench.runs import LeewayRun, run

if TYPE_CHECKING:
    from tests.bench.runs import Run

TARGET = 0.97
TEST_SAMPLES = 2_000
SNAPSHOT_SECONDS = 1.0
LOOK_SECONDS = 8.0
LIMIT_SECONDS = 200.0

# The same for every system; each is then measured with the best of its own.
LEARNING_RATES = (0.2, 0.1, 0.05, 0.025)


class _Evaluated(Mnist):
    """The task, judged by the first test images alone."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir, "cnn")
        self._test = Labelled(*(part[:TEST_SAMPLES] for part in self._test))

    def accuracy(self, snapshot: Path) -> float:
        model = self.model(0)
        model.load_state_dict(load_file(snapshot))
        return self.evaluate(model, torch.device("cpu"))["accuracy"]


def time_to_accuracy(data_dir: Path, rounds: int) -> Section:
    section = Section(
        "Time to 97 %: MNIST CNN, 4 workers, B = 16, moving straggler",
        f"Seconds until the first saved parameters with {TARGET:.0%} on the first {TEST_SAMPLES:,} test images."
        f" Learning rate: for each system the best of {', '.join(map(str, LEARNING_RATES))} in one run each, then"
        f" {rounds} further runs in turns with that. A run that is not there after {LIMIT_SECONDS:.0f} s counts as so"
        " long.",
    )
    task = _Evaluated(data_dir)
    searched = {system: {lr: _seconds(task, system, _job(data_dir, lr)) for lr in LEARNING_RATES} for system in System}
    chosen = {system: min(found, key=lambda lr: found[lr]) for system, found in searched.items()}
    seconds: dict[System, list[float]] = {system: [] for system in System}
    for _ in range(rounds):
        for system in System:
            seconds[system].append(_seconds(task, system, _job(data_dir, chosen[system])))
    ddp = Samples(tuple(seconds[System.DDP]))
    for system in (System.SYNC, System.ASYNC, System.SSP):
        goal = 1.0 if system is System.SSP else None
        what = f"{system}, lr {chosen[system]:g}"
        ours = Samples(tuple(seconds[system]))
        baseline = f"DDP, lr {chosen[System.DDP]:g}"
        section.comparisons.append(Comparison(what, "s", ours, baseline, ddp, goal, fewer=True))
    rows = {system.value: list(found.values()) for system, found in searched.items()}
    section.tables.append(Table("The search: seconds by learning rate", [f"{lr:g}" for lr in LEARNING_RATES], rows))
    return section


def _job(data_dir: Path, lr: float) -> Job:
    return Job(data_dir, 4, 16, Straggler.MOVING, lr=lr, snapshot_seconds=SNAPSHOT_SECONDS)


def _seconds(task: _Evaluated, system: System, job: Job) -> float:
    """Train until a look says that the target is reached, then find the first snapshot that has reached it."""
    with TemporaryDirectory(prefix="leeway-bench-") as folder:
        with run(system, job, Path(folder)) as running:
            _train(task, running)
            times = running.step_times()
        first, snapshots = min(times.values()), running.snapshots()
        for step in sorted(snapshots.keys() & times.keys()):
            if task.accuracy(snapshots[step]) >= TARGET:
                return times[step] - first
    return LIMIT_SECONDS


def _train(task: _Evaluated, running: Run) -> None:
    running.wait_for(lambda: bool(running.step_times()))
    began = looked = time.monotonic()
    while time.monotonic() - began < LIMIT_SECONDS:
        time.sleep(SNAPSHOT_SECONDS)
        if isinstance(running, LeewayRun):
            running.keep_snapshot()
        if time.monotonic() - looked < LOOK_SECONDS:
            continue
        looked = time.monotonic()
        snapshots = running.snapshots()
        settled = sorted(snapshots)[-2:-1]  # DDP's newest may be being written
        if settled and task.accuracy(snapshots[settled[0]]) >= TARGET:
            return
