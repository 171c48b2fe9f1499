"""`ssp`: bounded staleness (Ho et al., NeurIPS 2013, section 2).

A worker at clock c may read when min clock >= c - s, that is when its lag is at most the bound s; it then sees every
update of clock <= c - s - 1, and its own. A push is effective on arrival. Bound 0 is a barrier before every pull,
without the aggregation of `sync`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Answer, Park, in_words
from leeway.ps.core.policies.eager import Eager

if TYPE_CHECKING:
    from leeway.ps.core.decisions import Decision
    from leeway.ps.core.policies.policy import View


@dataclass(frozen=True, slots=True)
class Ssp(Eager):
    staleness: int

    @property
    def terms(self) -> PolicyTerms:
        return PolicyTerms("ssp", self.staleness)

    def pull(self, view: View, rank: str) -> Decision:
        begun = Eager.pull(self, view, rank)
        lag = view.clock_of(rank) - view.min_clock
        if not isinstance(begun, Answer) or lag <= self.staleness:
            return begun
        slowest = view.slowest()
        detail = f"{rank} leads {in_words(slowest)} by {lag} > {self.staleness}"
        return Park(Reason.LAG, detail, slowest, view.min_clock + 1)
