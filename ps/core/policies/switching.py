"""The way from an eager policy to one with rounds (the contract, *Switching*).

Below the clock `at` all run as `async`; at it they park, and joiners start there. When all are at `at`, its first
round opens with them, and `to` is in force. Invariant: nobody passes `at` under this policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Park
from leeway.ps.core.policies.eager import Eager

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.ps.core.decisions import Decision
    from leeway.ps.core.policies.policy import Policy, View


@dataclass(frozen=True, slots=True)
class Switching(Eager):
    terms: ClassVar[PolicyTerms] = PolicyTerms("async")

    to: Policy
    at: int

    def enter_clock(self, view: View) -> int:
        return self.at

    def pull(self, view: View, rank: str) -> Decision:
        if view.clock_of(rank) >= self.at:
            return Park(
                Reason.SWITCHING,
                f"round {self.at}, the first under {self.to.terms.mode}, opens when all are there",
                tuple(view.behind(self.at)),
                self.at,
            )
        return Eager.pull(self, view, rank)

    def members(self, view: View) -> Sequence[str]:
        return () if view.behind(self.at) else self.to.members(view)

    def opened(self) -> Policy:
        return self.to
