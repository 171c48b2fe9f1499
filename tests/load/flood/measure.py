"""The grid of the flood: which cells there are, and how one is measured.

The one rule: a cell has a server process of its own, started as a user starts it, so that neither memory nor anything
else is left from the cell before; and a cell that fails costs no figure but its own.
"""

from __future__ import annotations

import os
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leeway.protocol import routes
from tests.bench.machine import Others
from tests.bench.peers import peer
from tests.bench.processes import Failed, process, python
from tests.bench.server import server
from tests.load.flood.crowd import SPARE_FILES, raise_open_files
from tests.load.flood.figures import (
    GIB,
    KIB,
    MIB,
    Ceiling,
    Cell,
    Counted,
    FloodFigures,
    Load,
    Wake,
    count,
    people,
    size,
)
from tests.load.flood.gauges import Watch, lag_mean, lag_quantile, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.bench.peers import Peer
    from tests.bench.server import Server

WORKERS: Sequence[int] = (1, 4, 16, 64, 250, 1000)
MODELS_BYTES: Sequence[int] = (4 * KIB, 64 * KIB, 1 * MIB, 16 * MIB, 64 * MIB, 256 * MIB)
SHORT_WORKERS: Sequence[int] = (1, 16, 100)
SHORT_MODELS_BYTES: Sequence[int] = (4 * KIB, 1 * MIB)
SMALL_BYTES = MODELS_BYTES[0]

# Workers times model: about what lies in the server's memory when all push at the same time.
PRODUCT_BYTES = 4 * GIB

# The server holds at most this many versions beside the bodies under way, and keeps a gibibyte for the next ones.
_VERSIONS, _KEPT_BYTES = 4, GIB
# Everything else: two interpreters with their libraries, and what the kernel keeps for a connection.
_BESIDE_BYTES, _CONNECTION_BYTES = GIB, 512 * KIB

# Nobody may be evicted because a cell is slow: that would be another experiment.
LEASE_SECONDS = 600

# A figure, a copy of which is sent with every push: it must not move the parameters anywhere.
LEARNING_RATE = "0.000001"

# On a machine so slow or so busy that the grid takes longer, what comes last (the largest models) is left out.
LATEST_SECONDS = 360.0
_LATE = "left out, the cells before it took too long"

# How long to look for the reason when a process has gone silent.
_REASON_SECONDS = 2.0

_WORKER_ROUTES = (routes.UPDATES, routes.PARAMS)


@dataclass(frozen=True, slots=True)
class Times:
    """Of one cell, in seconds: to get warm, of the window, and the most that either takes when the replies are slow."""

    warm_up: float
    window: float
    at_most: float


SHORT = Times(0.1, 0.6, 5.0)
FULL = Times(1.0, 3.0, 25.0)


def measure(short: bool, progress: Callable[[str], None]) -> FloodFigures:
    """The whole grid. `progress` is told a line about each cell. A cell that cannot be measured says why."""
    began, others = time.monotonic(), Others()
    workers, models = (SHORT_WORKERS, SHORT_MODELS_BYTES) if short else (WORKERS, MODELS_BYTES)
    times = SHORT if short else FULL
    notes = []
    allowed_files = raise_open_files(max(workers) + SPARE_FILES)
    if allowed_files < max(workers) + SPARE_FILES:
        workers = tuple(number for number in workers if number + SPARE_FILES <= allowed_files)
        notes.append(
            f"The system lets a process open {count(allowed_files)} files: cells with more workers are left out."
        )
    cells = []
    for model_bytes in models:
        for number in workers:
            if number * model_bytes > PRODUCT_BYTES:
                continue
            late = time.monotonic() - began > LATEST_SECONDS
            cells.append(Cell(number, model_bytes, failed=_LATE) if late else flood(number, model_bytes, times))
            progress(_said(cells[-1]))
    ceilings = []
    try:
        with _bare(SMALL_BYTES) as url:
            for number in sorted({workers[0], workers[-1]}) if short else workers:
                ceilings.append(_ceiling(url, number, SMALL_BYTES, times))
                progress(f"bare aiohttp, {people(number)}: {ceilings[-1].updates_per_second:,.0f} answers/s")
    except Failed as failed:
        notes.append(f"Bare aiohttp could not be measured: {_last_line(failed)}")
    wakes = []
    for number in workers[-1:] if short else workers:
        wakes.append(wake(number, SMALL_BYTES, times))
        progress(f"sync, {people(number)}: {wakes[-1].failed or f'{wakes[-1].all_seconds * 1e3:.1f} ms for all'}")
    return FloodFigures(
        short=short,
        seconds=time.monotonic() - began,
        window_seconds=times.window,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cells=tuple(cells),
        ceilings=tuple(ceilings),
        wakes=tuple(wakes),
        others_share=others.share(),
        notes=tuple(notes),
    )


def flood(
    workers: int, model_bytes: int, times: Times, *, started: Callable[[Server], None] = lambda serving: None
) -> Cell:
    """One cell under async. `started` is called when the clients are warm, before the window."""
    if missing := _missing_memory(workers, model_bytes):
        return Cell(workers, model_bytes, failed=missing)
    try:
        with (
            _serving("async", workers, model_bytes) as serving,
            _reasoned(serving),
            _crowd(serving.url, workers, model_bytes) as crowd,
        ):
            before = read(serving.url)
            joined = crowd.ask(do="mark")
            crowd.ask(do="begin", seconds=times.warm_up, at_most=times.at_most)
            started(serving)
            first = read(serving.url)
            with Watch(serving.process) as watch:
                found = crowd.ask(do="window", seconds=times.window, at_most=times.at_most)
            last = read(serving.url)
            told = crowd.ask(do="end")
            after = read(serving.url)
            crowd.ask(do="leave")
    except Failed as failed:
        return Cell(workers, model_bytes, failed=_last_line(failed))
    if not found["updates"]:
        return Cell(workers, model_bytes, failed=f"nothing was answered in {found['seconds']:.0f} s")
    counted = Counted(
        told["updates"],
        told["sent_bytes"] - joined["sent_bytes"],
        told["received_bytes"] - joined["received_bytes"],
        *(
            sum(getattr(after, way).get(route, 0) - getattr(before, way).get(route, 0) for route in _WORKER_ROUTES)
            for way in ("received_bytes", "sent_bytes")
        ),
    )
    load = Load(
        seconds=found["seconds"],
        updates=found["updates"],
        moved_bytes=found["moved_bytes"],
        p50_seconds=found["p50_seconds"],
        p99_seconds=found["p99_seconds"],
        longest_seconds=found["longest_seconds"],
        resident_bytes=watch.resident_bytes,
        loop_lag_mean_seconds=lag_mean(first, last),
        loop_lag_p99_seconds=lag_quantile(first, last, 0.99),
        server_cores=watch.cores,
        clients_cores=found["cpu_seconds"] / found["seconds"],
        counted=counted,
    )
    return Cell(workers, model_bytes, load)


def wake(workers: int, model_bytes: int, times: Times) -> Wake:
    """Rounds of sync: all parked but one, then the last contribution."""
    try:
        with (
            _serving("sync", workers, model_bytes) as serving,
            _reasoned(serving),
            _crowd(serving.url, workers, model_bytes) as crowd,
        ):
            crowd.ask(do="rounds", seconds=times.warm_up, at_least=1)
            rounds = crowd.ask(do="rounds", seconds=times.window, at_least=5)["rounds"]
            crowd.ask(do="leave")
    except Failed as failed:
        return Wake(workers, model_bytes, failed=_last_line(failed))
    first, last = ([one[place] for one in rounds] for place in (0, 1))
    return Wake(workers, model_bytes, len(rounds), statistics.median(first), statistics.median(last), max(last))


def _ceiling(url: str, workers: int, model_bytes: int, times: Times) -> Ceiling:
    with _crowd(url, workers, model_bytes, "--bare") as crowd:
        crowd.ask(do="begin", seconds=times.warm_up, at_most=times.at_most)
        found = crowd.ask(do="window", seconds=times.window, at_most=times.at_most)
        crowd.ask(do="end")
    return Ceiling(
        workers, model_bytes, found["updates"] / found["seconds"], found["p50_seconds"], found["p99_seconds"]
    )


# The processes.


@contextmanager
def _serving(mode: str, workers: int, model_bytes: int) -> Iterator[Server]:
    flags = ["--mode", mode, "--workers", str(workers), "--lease", str(LEASE_SECONDS), "--max-body", str(model_bytes)]
    # All push one body, so that a thousand have room; the server would warn of it.
    flags += ["--log-level", "error"]
    with server(*flags, "--optimizer", "sgd", "--lr", LEARNING_RATE, threads=1) as serving:
        yield serving


@contextmanager
def _crowd(url: str, workers: int, model_bytes: int, *flags: str) -> Iterator[Peer]:
    with peer("tests.load.flood.crowd", url, str(workers), str(model_bytes), *flags) as crowd:
        yield crowd


@contextmanager
def _bare(body_bytes: int) -> Iterator[str]:
    with process(python("tests.load.flood.bare", str(body_bytes))) as started:
        yield started.read_line()


@contextmanager
def _reasoned(serving: Server) -> Iterator[None]:
    """Whatever fails in the block: if the server has ended, that is the reason. Raises `Failed`."""
    try:
        yield
    except (Failed, OSError, ValueError) as error:
        # Its connections are gone a moment before its end can be seen.
        deadline = time.monotonic() + _REASON_SECONDS
        while time.monotonic() < deadline:
            try:
                serving.process.check()
            except Failed as failed:
                raise Failed(f"the server died: {_exit(failed)}") from error
            time.sleep(0.05)
        raise Failed(str(error)) from error


def _exit(failed: Failed) -> str:
    """From what a `Failed` says: the exit code, and the last line that the process said."""
    first, *said = str(failed).strip().splitlines()
    code = first.partition(" of ")[0]
    return f"{code}, {said[-1].strip()}" if said else code


def _last_line(failed: Failed) -> str:
    line = str(failed).strip().splitlines()[-1].strip()
    return "the clients did not answer in time" if line.startswith("exit code None") else line


def _missing_memory(workers: int, model_bytes: int) -> str | None:
    """Why this machine has no room for a cell now, in words; None when it has, or does not tell."""
    bodies = workers * model_bytes
    needed = bodies + (_VERSIONS + 2) * model_bytes + min(bodies, _KEPT_BYTES) + _BESIDE_BYTES
    needed += workers * min(2 * model_bytes, _CONNECTION_BYTES)
    free = _available_bytes()
    return None if free is None or needed <= free else f"takes about {size(needed)} of memory, {size(free)} are free"


def _available_bytes() -> int | None:
    try:
        lines: Sequence[str] = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * KIB for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None


def _said(cell: Cell) -> str:
    load = cell.load
    if load is None:
        return f"{cell.name}: {cell.failed}"
    return (
        f"{cell.name}: {load.updates_per_second:,.0f} updates/s, {load.bytes_per_second / 1e9:.2f} GB/s,"
        f" p50 {load.p50_seconds * 1e3:.1f} ms, p99 {load.p99_seconds * 1e3:.1f} ms, {size(load.resident_bytes or 0)}"
    )
