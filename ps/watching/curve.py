"""How a run went, from its start to now, in a bounded number of points.

The one rule: the points kept are evenly spread. When there are too many, every second one goes and from then on only
every second is taken: the memory is constant, and what is lost is resolution, never the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# More than a screen has columns to spare for; with a few groups and figures, 100 to 200 KB of JSON.
MAX_POINTS = 512

# Names of figures in a point: the losses and accuracies that one looks at. A worker may report more.
MAX_FIGURES = 8


@dataclass(frozen=True, slots=True)
class Progress:
    """A group at one moment. `figures`: the mean of what its live workers reported last; None where none is finite."""

    version: int
    updates: int
    min_clock: int
    figures: Mapping[str, float | None]

    def to_fields(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "version": self.version,
            "updates": self.updates,
            "min_clock": self.min_clock,
            "figures": dict(self.figures),
        }


@dataclass(frozen=True, slots=True)
class Point:
    """`seconds` of uptime, and each group by its name."""

    seconds: float
    groups: Mapping[str, Progress]

    def to_fields(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"seconds": self.seconds, "groups": {name: curve.to_fields() for name, curve in self.groups.items()}}


class Curve:
    """At most `most` points, the first and the newest always among them."""

    def __init__(self, most: int = MAX_POINTS) -> None:
        if most < 2:
            raise ValueError(f"a curve has room for 2 points or more, not {most}")
        self._most = most
        self._kept: list[Point] = []
        self._every = 1
        self._seen = 0
        self.newest: Point | None = None

    def add(self, point: Point) -> None:
        """Points come in the order of their time, evenly spaced for the most part."""
        # One place is for the newest, which is shown whether or not it is one of those that are kept.
        if self._seen % self._every == 0:
            if len(self._kept) == self._most - 1:
                del self._kept[1::2]
                self._every *= 2
            if self._seen % self._every == 0:
                self._kept.append(point)
        self._seen += 1
        self.newest = point

    def points(self) -> list[Point]:
        """The oldest first."""
        if self.newest is None or self._kept[-1] is self.newest:
            return list(self._kept)
        return [*self._kept, self.newest]


def mean_figures(reported: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each figure over those who report it, the first `MAX_FIGURES` names; None is a value not finite."""
    finite: dict[str, list[float]] = {}
    for figures in reported:
        for name, value in figures.items():
            if name in finite or len(finite) < MAX_FIGURES:
                of_name = finite.setdefault(name, [])
                if value is not None:
                    of_name.append(value)
    return {name: sum(value / len(values) for value in values) if values else None for name, values in finite.items()}
