"""`sum`: the plain sum, g = sum over k of g_k, as parameter servers added up what came (Li et al. 2014, *Scaling
Distributed Machine Learning with the Parameter Server*, OSDI, section 2.2 and algorithm 1).

Numbers of samples have no weight: a worker that has summed over its samples, in place of averaging, has weighed them.
The step grows with the number of workers, and the learning rate has to know it. An absent tensor adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from leeway.ps.arithmetic.aggregation.rule import Rule

if TYPE_CHECKING:
    from leeway.ps.arithmetic.stages import State
    from leeway.ps.arithmetic.updates import Updates


@dataclass(frozen=True, slots=True)
class Sum(Rule):
    name: ClassVar[str] = "sum"
    needs_rounds: ClassVar[bool] = False

    def apply(self, state: State, updates: Updates) -> tuple[Updates, State]:
        return updates.total([1.0] * len(updates.contributions)), state
