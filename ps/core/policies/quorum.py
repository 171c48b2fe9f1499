"""`sync` with a quorum: a round does not wait for its slowest (Chen et al., arXiv 1604.00981, *backup workers*).

A round closes when as many members have pushed as the quorum asks for, and then a grace has passed in which those who
are nearly there may still come; or when all have. The others are late: their updates are dropped, and they go on with
the next round to open. A round's members are the live workers whose clock is its number, so who still computes for
an earlier one holds up nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from leeway.protocol.policy_terms import PolicyTerms
from leeway.ps.core.policies.gathering import Gathering

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from leeway.protocol.policy_terms import Grace
    from leeway.ps.core.policies.policy import View

# How far from the median a gap may lie that is still waited out, in median absolute deviations: what is farther is
# an outlier by the usual rule of three.
_DEVIATIONS = 3.0


@dataclass(frozen=True, slots=True)
class Quorum(Gathering):
    """`quorum`: pushes, 1 or more; of a round with fewer members, all. `grace_seconds` auto: as the pace advises."""

    quorum: int
    grace_seconds: Grace = "auto"

    @property
    def terms(self) -> PolicyTerms:
        return PolicyTerms("sync", quorum=self.quorum, grace_seconds=self.grace_seconds)

    def members(self, view: View) -> Sequence[str]:
        if view.live_workers < view.workers_to_start:
            return ()
        number = view.rounds.number
        return [rank for rank in view.ranks() if view.clock_of(rank) == number]

    def awaited(self, view: View) -> Sequence[str]:
        return ()

    def needed(self, view: View, awaited: int) -> int:
        rounds = view.rounds
        lacking = min(self.quorum, awaited + len(rounds.held)) - len(rounds.held)
        if lacking > 0:
            return lacking
        return awaited if self.deadline(view) is None else 0

    def deadline(self, view: View) -> float | None:
        rounds = view.rounds
        needed = min(self.quorum, len(rounds.missing) + len(rounds.held))
        if not needed or len(rounds.arrivals) < needed:
            return None
        grace_seconds = advised(rounds.gaps) if self.grace_seconds == "auto" else self.grace_seconds
        return None if grace_seconds is None else rounds.arrivals[needed - 1] + grace_seconds


def advised(gaps: Collection[float]) -> float | None:
    """The grace in seconds that these gaps between contributions advise; None as long as none is known."""
    if not gaps:
        return None
    usual = median(gaps)
    return usual + _DEVIATIONS * median(abs(gap - usual) for gap in gaps)
