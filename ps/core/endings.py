"""When a run is over, whatever its clocks say: after a time, by a figure that workers report, when one gets no better.

The one rule: what is not finite (a history has no NaN, nor an infinity) is no better than anything and meets nothing.
What was heard is not saved: after a restart it is heard anew.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from leeway.protocol import limits
from leeway.protocol.fields import MAX_INTEGER, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from leeway.ps.core.settings import Settings

_SIGNS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": lambda value, limit: value >= limit,
    "<=": lambda value, limit: value <= limit,
    ">": lambda value, limit: value > limit,
    "<": lambda value, limit: value < limit,
}


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that is reported compares so with `limit`: `test_accuracy>=0.97`."""

    figure: str
    sign: str
    limit: float

    def __post_init__(self) -> None:
        _check_name(self.figure)

    def __str__(self) -> str:
        return f"{self.figure}{self.sign}{self.limit!r}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `ValueError` when it is not of that form."""
        match = re.fullmatch(r"\s*([^<>=]*[^<>=\s])\s*(>=|<=|>|<)\s*([^<>=]+)", text)
        limit = _number(match[3]) if match else None
        if match is None or limit is None:
            wanted = f"a figure, one of {', '.join(_SIGNS)}, and a finite number, such as test_accuracy>=0.97"
            raise ValueError(f"{shown(text)} is not {wanted}")
        return cls(match[1], match[2], limit)

    def is_met_by(self, value: float) -> bool:
        return math.isfinite(value) and _SIGNS[self.sign](value, self.limit)


@dataclass(frozen=True, slots=True)
class Plateau:
    """A figure that is reported has been no better than its best for so many `versions`: `loss:500`.

    Lower is better, unless the `highest` is sought: `test_accuracy:500:max`.
    """

    figure: str
    versions: int
    highest: bool = False

    def __post_init__(self) -> None:
        _check_name(self.figure)

    def __str__(self) -> str:
        return f"{self.figure}:{self.versions}{':max' if self.highest else ''}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `ValueError` when it is not of that form."""
        match = re.fullmatch(r"\s*(.*\S)\s*:\s*([0-9]{1,16})\s*(:\s*max)?\s*", text)
        if match is None or not 1 <= int(match[2]) <= MAX_INTEGER:
            wanted = "a figure and how many versions, 1 or more, such as loss:500, or test_accuracy:500:max"
            raise ValueError(f"{shown(text)} is not {wanted}")
        return cls(match[1], int(match[2]), match[3] is not None)

    def is_better(self, value: float, best: float) -> bool:
        if not math.isfinite(best):
            return math.isfinite(value)
        return math.isfinite(value) and (value > best if self.highest else value < best)


class Endings:
    """Of a machine that begins at `now`. The methods say why the run is over, None while it is not."""

    def __init__(self, settings: Settings, now: float) -> None:
        self._seconds = settings.until_seconds
        self._goal = settings.until_metric
        self._plateau = settings.until_flat
        # Of each group, the best value of the plateau's figure and the version that was out when it was told.
        self._best: dict[str, tuple[float, int]] = {}
        # The figures that no worker has told yet.
        self.unheard = {end.figure for end in (self._goal, self._plateau) if end}
        self.deadline = None if self._seconds is None else now + self._seconds

    def paused(self, seconds: float, now: float) -> None:
        """The last `seconds` are no part of the run."""
        if self.deadline is not None and self._seconds is not None:
            self.deadline = min(self.deadline + seconds, now + self._seconds)

    def by_time(self, now: float) -> str | None:
        if self.deadline is None or now < self.deadline:
            return None
        return f"the run has lasted for the {self._seconds:g} s of --until-seconds"

    def by_figures(self, figures: Mapping[str, float], group: str, version: int) -> str | None:
        """`figures` came with an update of this group, whose newest version is this one."""
        goal, plateau = self._goal, self._plateau
        self.unheard.difference_update(figures)
        if goal and goal.is_met_by(value := figures.get(goal.figure, math.nan)):
            return f"{goal.figure} is {value:g}, which --until-metric {goal} asks for"
        if plateau and plateau.figure in figures:
            return self._flat(plateau, figures[plateau.figure], group, version)
        return None

    def _flat(self, plateau: Plateau, value: float, group: str, version: int) -> str | None:
        best, since = self._best.setdefault(group, (value, version))
        if plateau.is_better(value, best):
            self._best[group] = value, version
        elif version - since >= plateau.versions:
            return (
                f"{plateau.figure} is {value:g}, and was no better than {best:g} for {version - since} versions "
                f"(--until-flat {plateau})"
            )
        return None


def _check_name(figure: str) -> None:
    if not figure.isprintable() or len(figure.encode()) > limits.MAX_METRIC_NAME_BYTES:
        raise ValueError(
            f"{shown(figure)} is no name of a figure: printable text of 1 to {limits.MAX_METRIC_NAME_BYTES} bytes"
        )


def _number(text: str) -> float | None:
    """None: it is no finite one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
