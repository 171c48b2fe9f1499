"""What the flood found, in plain sentences.

The one rule: every sentence is made from the figures it is about, and is left out when they were not measured; a
figure that says the opposite makes the sentence say so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tests.load.flood.figures import GIB, MIB, people, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.load.flood.figures import FloodFigures, Load

# A number of workers that gets this share of the most is where the throughput has come to its end.
SATURATED_SHARE = 0.9

# Memory grows with what is under way where the fit explains it within this factor.
_MEMORY_FACTOR = 1.5

# Beyond this share of the machine's cores, the clients and the server stand in each other's way.
_CROWDED_SHARE = 0.9

# What others may use of the machine without a word.
_QUIET_SHARE = 0.1


def words(figures: FloodFigures) -> list[str]:
    """The findings, one sentence or two each, the most important first."""
    if not figures.loads():
        return ["No cell of the flood was measured.", *_failures(figures)]
    return [
        *_throughput(figures),
        *_ceilings(figures),
        *_latency(figures),
        *_memory(figures),
        *_loop(figures),
        *_processor(figures),
        *_wakes(figures),
        *_failures(figures),
        *_conditions(figures),
    ]


def _by_model(figures: FloodFigures) -> dict[int, dict[int, Load]]:
    """Model size to workers to load, both from small to large."""
    found: dict[int, dict[int, Load]] = {}
    for (workers, model_bytes), load in sorted(figures.loads().items(), key=lambda item: (item[0][1], item[0][0])):
        found.setdefault(model_bytes, {})[workers] = load
    return found


def _throughput(figures: FloodFigures) -> Iterator[str]:
    models = _by_model(figures)
    smallest, loads = next(iter(models.items()))
    best = max(loads, key=lambda n: loads[n].updates_per_second)
    enough = _saturated(loads)
    sentence = (
        f"With a model of {size(smallest)} the server takes, applies and answers at most"
        f" {loads[best].updates_per_second:,.0f} updates a second ({people(best)})"
    )
    last = max(loads)
    if enough < best:
        sentence += f"; {people(enough)} {'gets' if enough == 1 else 'get'} {SATURATED_SHARE:.0%} of that already"
    if best < last:
        kept = loads[last].updates_per_second / loads[best].updates_per_second
        sentence += f"; with {people(last)} {kept:.0%} of it {'are' if kept > 0.5 else 'alone are'} left"
    yield sentence + "."
    (n, model_bytes), fastest = max(figures.loads().items(), key=lambda item: item[1].bytes_per_second)
    yield (
        f"The most bytes it moved were {fastest.bytes_per_second / 1e9:.2g} GB/s, in and out together,"
        f" at {people(n)} with a model of {size(model_bytes)}."
    )


def _saturated(loads: dict[int, Load]) -> int:
    """The fewest workers that get nearly the most."""
    most = max(load.updates_per_second for load in loads.values())
    return min(n for n, load in loads.items() if load.updates_per_second >= SATURATED_SHARE * most)


def _ceilings(figures: FloodFigures) -> Iterator[str]:
    ratios = {
        one.workers: figures.loads()[one.workers, one.model_bytes].updates_per_second / one.updates_per_second
        for one in figures.ceilings
        if (one.workers, one.model_bytes) in figures.loads() and one.updates_per_second
    }
    if ratios:
        low, high = min(ratios.values()), max(ratios.values())
        span = f"{low:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"{low:.0%} to {high:.0%}"
        yield (
            f"Bare aiohttp, which reads and answers {size(figures.ceilings[0].model_bytes)} and does nothing with them,"
            f" is the ceiling of that: the server reaches {span} of it, depending on the number of workers. The rest"
            " goes into reading and judging a frame, the decision, the step and the new version."
        )


def _latency(figures: FloodFigures) -> Iterator[str]:
    smallest, loads = next(iter(_by_model(figures).items()))
    alone, many = min(loads), max(loads)
    if alone == many:
        yield f"A push-pull of {size(smallest)} takes {_both(loads[alone])} with {people(alone)}."
        return
    yield (
        f"A push-pull of {size(smallest)} takes {_both(loads[alone])} with {people(alone)} and {_both(loads[many])}"
        f" with {people(many)} that never pause: it is the time in the queue of one event loop, the number of"
        " workers by the updates a second. Workers that compute in between queue less."
    )


def _memory(figures: FloodFigures) -> Iterator[str]:
    held = {place: load.resident_bytes for place, load in figures.loads().items() if load.resident_bytes is not None}
    if len(held) < 2:
        return
    (least_n, least_bytes), base = min(held.items(), key=lambda item: item[1])
    (n, model_bytes), most = max(held.items(), key=lambda item: item[1])
    bodies = n * model_bytes
    yield (
        f"The server's process held {size(base)} with {people(least_n)} of {size(least_bytes)} and {size(most)} at"
        f" most, with {people(n)} of {size(model_bytes)}, where {size(bodies)} lie in the updates under way:"
        f" {_grows((most - base) / bodies)}."
    )
    smallest = min(size_bytes for _, size_bytes in held)
    counts = [workers for workers, size_bytes in held if size_bytes == smallest]
    few, many = min(counts), max(counts)
    if many > few and smallest < MIB:
        each = max(0.0, (held[many, smallest] - held[few, smallest]) / (many - few))
        yield (
            f"A worker that pushes {size(smallest)} costs it {size(round(each))} of memory, connection and all"
            f" ({people(few)} against {people(many)})."
        )


def _grows(factor: float) -> str:
    if factor <= _MEMORY_FACTOR:
        return f"it grows with workers times model, {factor:.1f} times that"
    return f"that is {factor:.1f} times those, for beside them lie the versions and what is kept for the next updates"


def _loop(figures: FloodFigures) -> Iterator[str]:
    late = {
        place: load.loop_lag_p99_seconds
        for place, load in figures.loads().items()
        if load.loop_lag_p99_seconds is not None
    }
    if not late:
        return
    (n, model_bytes), worst = max(late.items(), key=lambda item: (item[1], item[0]))
    fine = sum(seconds <= 0.1 for seconds in late.values())
    yield (
        f"The event loop was late by {_late(worst)} at worst (p99), at {people(n)} of {size(model_bytes)};"
        f" {fine} of {len(late)} cells stayed within 100 ms."
    )


def _processor(figures: FloodFigures) -> Iterator[str]:
    models = _by_model(figures)
    cheapest = {
        model_bytes: min(load.cpu_seconds_per_gib for load in loads.values()) for model_bytes, loads in models.items()
    }
    cheapest = {model_bytes: seconds for model_bytes, seconds in cheapest.items() if seconds > 0}
    if cheapest:
        small, large = min(cheapest), max(cheapest)
        sentence = f"A GiB of bodies costs the server {cheapest[large]:.2g} s of a processor in models of {size(large)}"
        if small != large:
            each = cheapest[small] / (GIB / (2 * small))
            sentence += (
                f" and {cheapest[small]:.2g} s in models of {size(small)}, where what counts is the update,"
                f" {each * 1e6:,.0f} us of a processor each"
            )
        yield sentence + "."


def _wakes(figures: FloodFigures) -> Iterator[str]:
    wakes = [one for one in figures.wakes if one.failed is None]
    if wakes:
        most = max(wakes, key=lambda one: one.workers)
        yield (
            f"Under sync, with all but one of {people(most.workers)} parked, the first is answered"
            f" {_time(most.first_seconds)} after the last contribution and the last one {_time(most.all_seconds)}"
            f" after it (medians of {most.rounds} rounds; the longest took {_time(most.longest_seconds)})."
        )


def _failures(figures: FloodFigures) -> Iterator[str]:
    for cell in figures.cells:
        if cell.failed:
            yield f"Not measured: {people(cell.workers)} of {size(cell.model_bytes)}: {cell.failed}."
    for one in figures.wakes:
        if one.failed:
            yield f"Not measured: sync with {people(one.workers)}: {one.failed}."


def _conditions(figures: FloodFigures) -> Iterator[str]:
    yield from figures.notes
    used = {place: load.server_cores + load.clients_cores for place, load in figures.loads().items()}
    crowded = [place for place, cores in used.items() if cores >= _CROWDED_SHARE * figures.cores]
    sentence = f"Server and clients share {figures.cores} cores"
    if crowded:
        sentence += (
            f"; in {len(crowded)} of {len(used)} cells both together had nothing left of them, so a server on a machine"
            " of its own does more"
        )
    yield sentence + "."
    if figures.others_share is not None and figures.others_share > _QUIET_SHARE:
        yield f"While it ran, other processes used {figures.others_share:.0%} of the machine."


def _both(load: Load) -> str:
    return f"{_time(load.p50_seconds)} (p99 {_time(load.p99_seconds)})"


def _late(seconds: float) -> str:
    return "more than its last bucket tells" if math.isinf(seconds) else _time(seconds)


def _time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.2g} ms"
