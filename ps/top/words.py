"""Numbers, names and reasons in words, for lines of a fixed width.

The one rule: no number and no name is too wide for its place, whatever its size; a reason is said in words that need no
knowledge of the server's.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

from leeway.protocol.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SIZES = ((1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"))

_NAMES = 3
_STAGES = 8

_COMPARISON = re.compile(r"(\S+) leads (.+) by (\d+) > (\d+)")


def count(value: int, cells: int) -> str:
    """A count in at most `cells` cells, four or more: as it is if it fits, else in thousands, millions, ..."""
    if len(str(value)) <= cells:
        return str(value)
    for size, sign in _SIZES:
        if round(value / size) < 1000:
            return f"{value / size:.0f}{sign}"
    return f"{value:.0e}".replace("e+", "e")


def number(value: float | None) -> str:
    """Four significant digits or so, in eight characters at most (nine below zero). None: it is not finite."""
    if value is None or not math.isfinite(value):
        return "NaN"
    if value == 0:
        return "0"
    return f"{value:.4f}" if 0.001 <= abs(value) < 100 else f"{value:.3g}"


def rate(value: float) -> str:
    """A number a second."""
    return f"{value:.1f}" if value < 1e6 else count(round(value), 6)


def duration(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}" if minutes else f"{whole} s"


def stages(replica: Mapping[str, Any]) -> str:
    """`stages 0:62% 1:98% holds 2:55%`: which share of its last iteration each has computed; the rest is waiting for
    neighbours. Of a stage that has told nothing yet, what it does."""
    return "stages " + " ".join(_stage(stage, replica.get("holding")) for stage in replica["stages"])


def _stage(stage: Mapping[str, Any], holding: int | None) -> str:
    computed, waited = stage.get("computed_seconds"), stage.get("waited_seconds")
    busy = f"{computed / (computed + waited):.0%}" if computed is not None and computed + waited else stage["state"]
    return f"{stage['stage']}:{busy}{' holds' if stage['stage'] == holding else ''}"


def missing(forming: Mapping[str, Any]) -> str:
    """`r0 waits for stages 0, 2 of 4`."""
    lacking = forming["missing"]
    named = ", ".join(str(stage) for stage in lacking[:_STAGES]) + (", ..." if len(lacking) > _STAGES else "")
    noun = "stage" if len(lacking) == 1 else "stages"
    return f"{short_name(forming['rank'])} waits for {noun} {named} of {forming['stages']}"


def quarantine(rows: Sequence[Mapping[str, Any]], count: int) -> str:
    """`w3 in quarantine`, `w0, w1, w2 and 5 others in quarantine`."""
    named = [short_name(row["rank"]) for row in rows[:_STAGES]]
    others = f" and {count - len(named)} others" if count > len(named) else ""
    return f"{', '.join(named)}{others} in quarantine"


def short_name(name: str, most: int = 24) -> str:
    """At most `most` characters: what tells ranks apart is mostly at the end, so a name is cut in the middle."""
    if len(name) <= most:
        return name
    end = math.ceil((most - 1) * 0.6)
    return f"{name[: most - 1 - end]}…{name[-end:]}"


def names(ranks: Sequence[str]) -> str:
    """`w1, w2`, and from the fourth on `w1, w2, w3 and 4 more`."""
    shown = ", ".join(short_name(rank) for rank in ranks[:_NAMES])
    return f"{shown} and {len(ranks) - _NAMES} more" if len(ranks) > _NAMES else shown


def plain(detail: str) -> str:
    """A decision's words: the server's, but for its short form of how far one is ahead."""
    return _COMPARISON.sub(r"\1 is \3 ahead of \2, \4 allowed", detail)


WHY: Final[Mapping[str, Callable[[str, int, int | None], str]]] = {
    Reason.LAG: lambda whom, lag, bound: f"waits for {whom}: {lag} ahead, max {bound}",
    Reason.WAITING_FOR_ROUND: lambda whom, lag, bound: f"waits for {whom} to end the round",
    Reason.NEXT_ROUND: lambda whom, lag, bound: f"waits for {whom}, then goes on",
    Reason.SWITCHING: lambda whom, lag, bound: f"waits for {whom}, then sync begins",
    Reason.OWN_UPDATE: lambda whom, lag, bound: "waits for its own update",
    Reason.WAITING_FOR_STEP: lambda whom, lag, bound: "waits for the round's step",
    Reason.NO_PARAMETERS: lambda whom, lag, bound: "waits for the first values",
}
"""Why one waits, by the server's reason, short enough for a terminal of 80. The rest has the server's own words."""


def doing(progress: Mapping[str, Any], bound: int | None) -> str:
    """What a worker does, and if it waits: for whom and why; and whether its newest update was late."""
    late = "; its update was late" if progress.get("newest_late") else ""
    return f"{_state(progress, bound)}{late}"


def _state(progress: Mapping[str, Any], bound: int | None) -> str:
    if progress["state"] != "waiting":
        return "computes" if progress["state"] == "computing" else "idle"
    why = progress["why"]
    whom = why.get("waiting_for", [])
    if words := WHY.get(why["reason"]):
        return words(names(whom) or "others", progress["lag"], bound)
    return f"waits{f' for {names(whom)}' if whom else ''}: {why.get('detail') or why['reason']}"
