"""What several seeds of several systems say together: medians, spreads, and which differences are larger than these.

The one rule: a difference counts when the worst seed of one side is better than the best of the other, by more than can
be told apart at all; of a single seed nothing is said. A target that a seed has not reached was reached after for ever.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.load.systems import DDP, SYNC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.load.scenario import Scenario
    from tests.load.stragglers import Straggler
    from tests.load.systems import System
    from tests.load.trials import Histogram, Result


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure of all seeds; infinity stands for "never". Not empty."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Of those that were measured; None when there are none."""
        measured = tuple(value for value in values if value is not None)
        return cls(measured) if measured else None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def below(self, other: Spread, resolution: float = 0.0) -> bool:
        """Whether all values are smaller than all of the other's, by more than the resolution; never if single."""
        return min(len(self.values), len(other.values)) > 1 and self.high + resolution < other.low

    def to_fields(self) -> dict[str, Any]:
        told = {"median": self.median, "low": self.low, "high": self.high}
        return {name: value if math.isfinite(value) else None for name, value in told.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """All runs of one system under one straggler; not empty, in the order of their seeds."""

    system: System
    results: tuple[Result, ...]

    @property
    def seconds_to_target(self) -> Spread:
        """Infinite for a seed that never got there."""
        return Spread(tuple(math.inf if one is None else one for one in (r.seconds_to_target for r in self.results)))

    @property
    def updates_to_target(self) -> Spread:
        return Spread(tuple(math.inf if one is None else one for one in (r.updates_to_target for r in self.results)))

    @property
    def reached(self) -> int:
        """How many seeds have reached the target."""
        return sum(result.seconds_to_target is not None for result in self.results)

    @property
    def best_accuracy(self) -> float | None:
        return max((one for one in (r.best_accuracy for r in self.results) if one is not None), default=None)

    def spread(self, figure: Callable[[Result], float | None]) -> Spread | None:
        return Spread.of(figure(result) for result in self.results)

    @property
    def staleness(self) -> Histogram | None:
        """Of all seeds together."""
        return _together(result.staleness for result in self.results)

    @property
    def lag(self) -> Histogram | None:
        return _together(result.lag for result in self.results)

    @property
    def lead(self) -> Spread | None:
        """How many times as many iterations a second the fastest rank makes as the slowest, once settled."""
        return self.spread(
            lambda one: (
                max(one.paces.values()) / min(one.paces.values()) if all(one.paces.values()) and one.paces else None
            )
        )


def _together(histograms: Iterable[Histogram | None]) -> Histogram | None:
    told = [one for one in histograms if one is not None]
    return sum(told[1:], start=told[0]) if told else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All systems under one straggler of a scenario, in the scenario's order."""

    scenario: Scenario
    straggler: Straggler
    entries: tuple[Entry, ...]

    @property
    def baseline(self) -> Entry:
        """DDP, what people use today; without it sync; without that the first."""
        return self.entry(DDP) or self.entry(SYNC) or self.entries[0]

    def entry(self, system: System) -> Entry | None:
        return next((entry for entry in self.entries if entry.system == system), None)

    @property
    def fastest(self) -> Entry | None:
        """The one that reached the target first, by the median; None when none has."""
        first = min(self.entries, key=lambda entry: entry.seconds_to_target.median)
        return first if math.isfinite(first.seconds_to_target.median) else None

    def faster(self, one: Entry, other: Entry) -> bool:
        """Whether one is there before the other, beyond the spread; snapshots are no finer than they are."""
        return one.seconds_to_target.below(other.seconds_to_target, self.scenario.snapshot_seconds)

    @property
    def has_spread(self) -> bool:
        """Whether there are several seeds, of everybody."""
        return all(len(entry.results) > 1 for entry in self.entries)

    @property
    def leaders(self) -> tuple[Entry, ...]:
        """The fastest, and all that cannot be told from it."""
        fastest = self.fastest
        if fastest is None:
            return ()
        return tuple(
            entry
            for entry in self.entries
            if math.isfinite(entry.seconds_to_target.median) and not self.faster(fastest, entry)
        )

    @property
    def equal_seconds(self) -> float:
        """The moment at which accuracies are compared: when the baseline has reached the target."""
        seconds = self.baseline.seconds_to_target.median
        return seconds if math.isfinite(seconds) else self.scenario.run_seconds / 2

    @property
    def equal_updates(self) -> float:
        """The number of updates at which they are: those that the baseline needed."""
        updates = self.baseline.updates_to_target.median
        return updates if math.isfinite(updates) else min(r.updates for entry in self.entries for r in entry.results)


def compare(scenario: Scenario, results: Sequence[Result]) -> list[Comparison]:
    """By straggler, in the scenario's order; what was not run at all is left out."""
    found: dict[tuple[Straggler, System], list[Result]] = {}
    for result in results:
        if result.trial.scenario == scenario:
            found.setdefault((result.trial.straggler, result.trial.system), []).append(result)
    comparisons = []
    for straggler in scenario.stragglers:
        entries = tuple(
            Entry(system, tuple(sorted(found[straggler, system], key=lambda one: one.trial.seed)))
            for system in scenario.systems
            if (straggler, system) in found
        )
        if entries:
            comparisons.append(Comparison(scenario, straggler, entries))
    return comparisons
