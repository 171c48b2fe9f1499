"""`sync` (BSP, Valiant 1990): a round waits for all its members, and the next opens when all are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from leeway.protocol.policy_terms import PolicyTerms
from leeway.ps.core.policies.gathering import Gathering

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.ps.core.policies.policy import View


@dataclass(frozen=True, slots=True)
class Sync(Gathering):
    terms: ClassVar[PolicyTerms] = PolicyTerms("sync")

    def members(self, view: View) -> Sequence[str]:
        number = view.rounds.number
        if view.min_clock != number or view.live_workers < view.workers_to_start:
            return ()
        return [rank for rank in view.ranks() if view.clock_of(rank) == number]

    def awaited(self, view: View) -> Sequence[str]:
        """Those whom a quorum that was asked for before this has left behind."""
        return view.behind(view.rounds.number)

    def needed(self, view: View, awaited: int) -> int:
        return awaited

    def deadline(self, view: View) -> float | None:
        return None
