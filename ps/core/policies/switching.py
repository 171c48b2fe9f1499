"""The way from an eager policy to one with rounds (the contract, *Switching*).

Below the clock `at` all run as `async`; at it they park, and joiners start there. When all are at `at`, or as many as
a quorum asks for, its first round opens with them, and `to` is in force; who is behind is moved on as under a quorum.
Invariant: nobody passes `at` under this policy.
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


def waits_for_nobody(view: View) -> Park:
    """Why the next round does not open though all that it waits for are at its number."""
    number = view.rounds.number
    if view.live_workers < view.workers_to_start:
        return Park(
            Reason.WAITING_FOR_WORKERS,
            f"round {number} opens with {view.workers_to_start} workers, {view.live_workers} live",
        )
    if view.stepping:
        return Park(Reason.WAITING_FOR_STEP, f"round {number} opens when the version that is being made is published")
    # It was this pull that brought the last one there.
    return Park(Reason.NEXT_ROUND, f"round {number} opens now")


@dataclass(frozen=True, slots=True)
class Switching(Eager):
    terms: ClassVar[PolicyTerms] = PolicyTerms("async")

    to: Policy
    at: int

    def enter_clock(self, view: View) -> int:
        return self.at

    def pull(self, view: View, rank: str) -> Decision:
        if view.clock_of(rank) < self.at:
            return Eager.pull(self, view, rank)
        awaited = tuple(self.awaited(view))
        if not awaited:
            return waits_for_nobody(view)
        quorum = self.to.terms.quorum
        enough = "all" if quorum is None or quorum >= view.live_workers else f"{quorum} of {view.live_workers}"
        detail = f"round {self.at}, the first under {self.to.terms.mode}, opens when {enough} are there"
        return Park(Reason.SWITCHING, detail, awaited, self.at)

    def awaited(self, view: View) -> Sequence[str]:
        behind = view.behind(self.at)
        quorum = self.to.terms.quorum
        return () if quorum is not None and view.live_workers - len(behind) >= quorum else behind

    def needed(self, view: View, awaited: int) -> int:
        quorum = self.to.terms.quorum
        return awaited if quorum is None else min(awaited, quorum - (view.live_workers - awaited))

    def members(self, view: View) -> Sequence[str]:
        return () if self.awaited(view) else self.to.members(view)

    def opened(self) -> Policy:
        return self.to
