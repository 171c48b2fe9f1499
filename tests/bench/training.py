"""Leeway's policies against DistributedDataParallel over gloo, with and without stragglers: how many steps a second.

The one rule: systems take turns, run after run, each in fresh processes with one thread for arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.contest import Comparison, Samples, take_turns
from tests.bench.jobs import SLOW_SECONDS, TURN_ITERATIONS, Job, Straggler, System
from tests.bench.results import Section, Table
from tests.bench.windows import watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.bench.windows import Window

    Found = dict[str, dict[str, Samples]]

# What the issue asks for of worker-steps a second, as a multiple of DDP's.
_GOALS = {(Straggler.CONSTANT, System.ASYNC): 2.5, (Straggler.MOVING, System.SSP): 1.5}

_COLUMNS = ("iteration", "compute", "push", "wait", "pull", "worker cpu", "server cpu", "server's step")


def against_ddp(data_dir: Path, rounds: int, seconds: float) -> Section:
    """`sync` with two workers."""
    section = Section(
        "`sync` against DDP: MNIST CNN, 2 workers, B = 64",
        f"1,663,370 parameters, plain SGD, no straggler; steps are counted over {seconds:g} s of each run, after the"
        " first ones. Leeway is three processes (a server more than DDP has) on the same cores.",
    )
    job = Job(data_dir, workers=2, batch_size=64)
    windows: dict[str, list[Window]] = {}
    found = _contest({system.value: (system, job) for system in (System.DDP, System.SYNC)}, rounds, seconds, windows)
    section.comparisons.append(_comparison("sync", found["sync"], found["DDP"], "steps", 0.9))
    section.tables.append(_where(windows))
    return section


def stragglers(data_dir: Path, rounds: int, seconds: float) -> Section:
    """Every policy with four workers: nobody slow, always the same one, each in turn."""
    section = Section(
        "Stragglers: MNIST CNN, 4 workers, B = 16",
        f"A straggler sleeps {SLOW_SECONDS} s in an iteration. Constant: the last worker in all of its iterations;"
        f" moving: each worker for {TURN_ITERATIONS} of its iterations in turn. A worker-step is one accepted update, a"
        f" step one new set of parameters. Counted over {seconds:g} s of each run. `ssp` settles at the slow worker's"
        " pace when that is always the same one: that is its nature.",
    )
    windows: dict[str, list[Window]] = {}
    entries = {
        f"{system}, {straggler}": (system, Job(data_dir, 4, 16, straggler))
        for straggler in Straggler
        for system in System
    }
    found = _contest(entries, rounds, seconds, windows)
    for straggler in Straggler:
        baseline = found[f"{System.DDP}, {straggler}"]
        for system in (System.SYNC, System.ASYNC, System.SSP):
            name, goal = f"{system}, {straggler}", _GOALS.get((straggler, system))
            section.comparisons.append(_comparison(name, found[name], baseline, "worker-steps", goal))
            if system.joint:
                section.comparisons.append(_comparison(name, found[name], baseline, "steps", None))
    section.tables.append(_where(windows))
    return section


def _contest(
    entries: Mapping[str, tuple[System, Job]], rounds: int, seconds: float, windows: dict[str, list[Window]]
) -> Found:
    def contender(name: str, system: System, job: Job) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            window = watch(system, job, seconds)
            windows.setdefault(name, []).append(window)
            return {"steps": window.steps_per_second, "worker-steps": window.worker_steps_per_second}

        return measure

    return take_turns({name: contender(name, *entry) for name, entry in entries.items()}, rounds, warm_up_rounds=0)


def _comparison(
    name: str, ours: Mapping[str, Samples], ddp: Mapping[str, Samples], key: str, goal: float | None
) -> Comparison:
    return Comparison(name, f"{key}/s", ours[key], "DDP", ddp[key], goal)


def _where(windows: Mapping[str, Sequence[Window]]) -> Table:
    """Mean milliseconds of the parts of an iteration."""
    rows: dict[str, list[float | None]] = {}
    for name, ones in windows.items():
        parts = {part: [one.parts[part] for one in ones] for part in ones[0].parts}
        cells = [parts.get(part) for part in ("step", "compute", "push", "wait", "pull")]
        cells.append([one.worker_cpu_seconds for one in ones])
        served = "push" in parts
        cells.append([one.server_cpu_seconds for one in ones] if served else None)
        cells.append([one.apply_seconds for one in ones] if served else None)
        rows[name] = [None if cell is None else 1e3 * Samples(tuple(cell)).median for cell in cells]
    return Table(
        "Where a worker's iteration spends its time, ms (DDP's compute includes the all-reduce; a sleep is part of the"
        " iteration only; wait: the server's part, its arithmetic included; cpu: processor time per worker-step)",
        _COLUMNS,
        rows,
    )
