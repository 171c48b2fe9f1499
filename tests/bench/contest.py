"""Contenders measured side by side, and what may be said about them.

The one rule: on a shared machine a figure is a ratio of one run. Contenders take turns, A B A B, and are compared
round by round; what is said is the median of those ratios and how they spread.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Samples:
    """Repetitions of one measurement, in the order in which they were made; not empty."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles; of less than four values, the extremes."""
        if len(self.values) < 4:
            return min(self.values), max(self.values)
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def to_fields(self) -> dict[str, Any]:
        low, high = self.spread
        return {"median": self.median, "low": low, "high": high, "values": list(self.values)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was measured of us and of a baseline in the same rounds, in `unit`, of which more is better.

    With `fewer` less is better. `goal`: what the median of the rounds' ratios (ours / theirs) is to reach, or with
    `fewer` not to exceed; None where nothing was set.
    """

    what: str
    unit: str
    ours: Samples
    baseline_name: str
    baseline: Samples
    goal: float | None = None
    fewer: bool = False
    our_name: str = "Leeway"

    @property
    def ratios(self) -> Samples:
        pairs = zip(self.ours.values, self.baseline.values, strict=True)
        return Samples(tuple(ours / theirs for ours, theirs in pairs))

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.ratios.median <= self.goal if self.fewer else self.ratios.median >= self.goal

    def to_fields(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": {"name": self.our_name, **self.ours.to_fields()},
            "baseline": {"name": self.baseline_name, **self.baseline.to_fields()},
            "ratio": self.ratios.to_fields(),
            "goal": self.goal,
            "fewer_is_better": self.fewer,
            "met": self.met,
        }


def take_turns(
    contenders: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int, warm_up_rounds: int = 1
) -> dict[str, dict[str, Samples]]:
    """Run every contender once a round, each round beginning with the next one. What they return, by contender and
    key.
    """
    names = list(contenders)
    kept: dict[str, list[Mapping[str, float]]] = {name: [] for name in names}
    for number in range(-warm_up_rounds, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            values = contenders[name]()
            if number >= 0:
                kept[name].append(values)
    return {
        name: {key: Samples(tuple(values[key] for values in found)) for key in found[0]} for name, found in kept.items()
    }
