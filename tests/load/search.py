"""The learning rate of each system: tried on equal machines, from one grid for all.

The one rule: what decides is written down, so that a reader can choose otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.load.systems import DDP, SYNC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.load.systems import System
    from tests.load.trials import Result

# Of the rates that are about as fast as the fastest, the smallest is taken: it is the furthest from diverging when
# updates become more stale than they are on equal machines.
ABOUT_AS_FAST = 1.25

# A system whose best rate is at an edge of the grid is tried beyond it, so often at most, step by step as wide as the
# grid's own. A grid of fewer rates than three is all edges, and is left as it is.
MOST_BEYOND = 3
_LEAST_RATES = 3


@dataclass(frozen=True, slots=True)
class Attempt:
    """One rate: seconds until the target, None when it was not reached, and the best accuracy."""

    learning_rate: float
    seconds_to_target: float | None
    best_accuracy: float | None

    @classmethod
    def of(cls, result: Result) -> Attempt:
        return cls(result.trial.learning_rate, result.seconds_to_target, result.best_accuracy)


@dataclass(frozen=True, slots=True)
class Choice:
    """The rate of a system, and the attempts that it was chosen from."""

    system: System
    learning_rate: float
    attempts: tuple[Attempt, ...]

    @property
    def at_the_edge(self) -> bool:
        """Whether the grid may have been too narrow: the best rate is its smallest or largest."""
        rates = [attempt.learning_rate for attempt in self.attempts]
        return len(rates) > 1 and self.learning_rate in (min(rates), max(rates))

    def of(self, rate: float) -> Attempt | None:
        """The attempt with this rate, if there was one."""
        return next((attempt for attempt in self.attempts if attempt.learning_rate == rate), None)

    @property
    def beyond(self) -> float | None:
        """The next rate outside of what was tried, where the best one is at an edge; None: there is nothing to try."""
        rates = sorted(attempt.learning_rate for attempt in self.attempts)
        if not self.at_the_edge or len(rates) < _LEAST_RATES:
            return None
        edge, inner = (rates[-1], rates[-2]) if self.learning_rate == rates[-1] else (rates[0], rates[1])
        return float(f"{edge * edge / inner:.6g}")

    def to_fields(self) -> dict[str, Any]:
        tried = [[one.learning_rate, one.seconds_to_target, one.best_accuracy] for one in self.attempts]
        return {"system": str(self.system), "learning_rate": self.learning_rate, "attempts": tried}


def families(systems: Sequence[System]) -> list[list[System]]:
    """Those that share a learning rate: `sync` and DDP make the same steps, so another rate would be another method."""
    same = [system for system in systems if system in (SYNC, DDP)]
    return [*([same] if same else []), *([system] for system in systems if system not in same)]


def pooled(family: Sequence[Sequence[Attempt]]) -> list[Attempt]:
    """The attempts of systems that share a rate, the same rates in the same order: the means of what each has seen."""
    return [
        Attempt(
            together[0].learning_rate,
            _mean([one.seconds_to_target for one in together]),
            _mean([one.best_accuracy for one in together]),
        )
        for together in zip(*family, strict=True)
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def choose(system: System, attempts: Sequence[Attempt]) -> Choice:
    """The smallest rate that is about as fast as the fastest; when none has reached the target, the most accurate."""
    reached = {one.learning_rate: one.seconds_to_target for one in attempts if one.seconds_to_target is not None}
    if reached:
        limit = ABOUT_AS_FAST * min(reached.values())
        rate = min(rate for rate, seconds in reached.items() if seconds <= limit)
    else:
        rate = max(attempts, key=lambda one: one.best_accuracy or 0.0).learning_rate
    return Choice(system, rate, tuple(attempts))
