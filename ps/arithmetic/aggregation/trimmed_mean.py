"""`trimmed-mean:B`: of each coordinate the plain mean without the B smallest and the B largest (Yin et al. 2018,
*Byzantine-Robust Distributed Learning*, arXiv 1803.01498, section 4, definition 2 and algorithm 1, option II).

Needs more than 2 B updates, and stands B of them being anything at all. Numbers of samples have no weight: B counts
updates, and one that weighed as much as two could not be trimmed as one.

An absent tensor counts as a zero, "it does not move", and is trimmed like any other value: so one that at most B have
sent, all in one direction, stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from leeway.ps.arithmetic.aggregation.rule import Rule, at_least
from leeway.ps.arithmetic.aggregation.sorting import sort_columns

if TYPE_CHECKING:
    import torch

    from leeway.ps.arithmetic.stages import State
    from leeway.ps.arithmetic.updates import Updates


@dataclass(frozen=True, slots=True)
class TrimmedMean(Rule):
    name: ClassVar[str] = "trimmed-mean"

    b: int

    def __post_init__(self) -> None:
        at_least(0, b=self.b)

    @property
    def least(self) -> int:
        return 2 * self.b + 1

    def apply(self, state: State, updates: Updates) -> tuple[Updates, State]:
        return updates.columns(self._trimmed), state

    def _trimmed(self, rows: list[torch.Tensor]) -> torch.Tensor:
        kept = sort_columns(rows)[self.b : len(rows) - self.b]
        total = kept[0] / len(kept)
        for row in kept[1:]:
            total.add_(row, alpha=1.0 / len(kept))
        return total
