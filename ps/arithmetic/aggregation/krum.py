"""`krum:F` and `multi-krum:F,M`: the update that has the closest neighbours, and the plain mean of the M that have
(Blanchard et al. 2017, *Machine Learning with Adversaries*, NeurIPS, section 4 and section 5).

The score of an update is the sum of the squared distances, over all trainable tensors, to the n - F - 2 other updates
that are closest to it, n being their number; the smallest score wins, of equal ones the first in the order of ranks.
(Some code sums n - F - 1 of them, which can choose another one.)

Needs n > 2 F + 2 updates, multi-krum n >= M + F + 2 besides, and stands F of them being anything at all. Numbers of
samples have no weight: a score is about who is near whom.

An absent tensor counts as a zero, "it does not move": so in the distances, and in the step when one without it is
chosen, as in the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from leeway.ps.arithmetic.aggregation.rule import Rule, at_least

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.ps.arithmetic.stages import State
    from leeway.ps.arithmetic.updates import Updates


@dataclass(frozen=True, slots=True)
class Krum(Rule):
    name: ClassVar[str] = "krum"

    f: int

    def __post_init__(self) -> None:
        at_least(0, f=self.f)

    @property
    def least(self) -> int:
        return 2 * self.f + 3

    def apply(self, state: State, updates: Updates) -> tuple[Updates, State]:
        return _mean_of_best(updates, self.f, 1), state


@dataclass(frozen=True, slots=True)
class MultiKrum(Rule):
    name: ClassVar[str] = "multi-krum"

    f: int
    m: int

    def __post_init__(self) -> None:
        at_least(0, f=self.f)
        at_least(1, m=self.m)

    @property
    def least(self) -> int:
        return max(2 * self.f + 3, self.m + self.f + 2)

    def apply(self, state: State, updates: Updates) -> tuple[Updates, State]:
        return _mean_of_best(updates, self.f, self.m), state


def scores(distances: Sequence[Sequence[float]], f: int) -> list[float]:
    """Of each update, from the squared distances of any two."""
    neighbours = len(distances) - f - 2
    return [
        sum(sorted(row[other] for other in range(len(row)) if other != index)[:neighbours])
        for index, row in enumerate(distances)
    ]


def _mean_of_best(updates: Updates, f: int, m: int) -> Updates:
    found = scores(updates.distances().tolist(), f)
    best = sorted(range(len(found)), key=lambda index: (found[index], index))[:m]
    return updates.total([1.0 / m if index in best else 0.0 for index in range(len(found))])
