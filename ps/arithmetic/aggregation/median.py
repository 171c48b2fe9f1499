"""`median`: of each coordinate the median, of an even number of updates the mean of the two in the middle (Yin et al.
2018, *Byzantine-Robust Distributed Learning*, arXiv 1803.01498, section 4, algorithm 1, option I).

Stands fewer than half of the updates being anything at all. Numbers of samples have no weight: whoever could choose
its weight could choose the median.

An absent tensor counts as a zero, "it does not move": so one that fewer than half have sent stays where it is, and a
few cannot move alone what the others do not use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from leeway.ps.arithmetic.aggregation.rule import Rule
from leeway.ps.arithmetic.aggregation.sorting import sort_columns

if TYPE_CHECKING:
    import torch

    from leeway.ps.arithmetic.stages import State
    from leeway.ps.arithmetic.updates import Updates


@dataclass(frozen=True, slots=True)
class Median(Rule):
    name: ClassVar[str] = "median"

    def apply(self, state: State, updates: Updates) -> tuple[Updates, State]:
        return updates.columns(_median), state


def _median(rows: list[torch.Tensor]) -> torch.Tensor:
    ordered = sort_columns(rows)
    low, high = ordered[(len(rows) - 1) // 2], ordered[len(rows) // 2]
    # Halved first: the sum of two large numbers may be none.
    return low if low is high else low * 0.5 + high * 0.5
