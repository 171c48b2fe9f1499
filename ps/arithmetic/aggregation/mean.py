"""`mean`: the sample-weighted mean, g = sum over k of (n_k / n) g_k with n = sum of n_k (FedSGD and FedAvg: McMahan
et al. 2017, arXiv 1602.05629, section 2 and algorithm 1), over the updates of the step.

A tensor that a member did not send counts as a zero with its update's weight (so does an unused parameter's missing
gradient under a plain loop over the joined batch); one that nobody sent stays absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from leeway.ps.arithmetic.aggregation.rule import Rule, shares

if TYPE_CHECKING:
    from leeway.ps.arithmetic.stages import State
    from leeway.ps.arithmetic.updates import Updates


@dataclass(frozen=True, slots=True)
class Mean(Rule):
    name: ClassVar[str] = "mean"
    needs_rounds: ClassVar[bool] = False

    def apply(self, state: State, updates: Updates) -> tuple[Updates, State]:
        return updates.total(shares(updates.samples)), state
