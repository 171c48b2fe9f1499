"""What the policies without rounds have in common: a push takes effect on arrival, a joiner begins with the slowest.

The one rule: nobody computes before all have joined who begin together; then whoever comes or goes holds up nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Answer, Park
from leeway.ps.core.policies.policy import Reception

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.ps.core.decisions import Decision
    from leeway.ps.core.policies.policy import Policy, View


class Eager:
    __slots__ = ()

    has_rounds: ClassVar[bool] = False

    def enter_clock(self, view: View) -> int:
        return view.min_clock

    def caught_up(self, view: View, rank: str) -> int:
        return view.clock_of(rank)

    def pull(self, view: View, rank: str) -> Decision:
        if view.assembled:
            return Answer(Reason.GRANTED)
        return Park(
            Reason.WAITING_FOR_WORKERS,
            f"the run begins when {view.workers} workers have joined, {len(view.arrived)} have so far",
        )

    def push(self, view: View, rank: str) -> Reception:
        return Reception.ON_ARRIVAL

    def members(self, view: View) -> Sequence[str]:
        return ()

    def awaited(self, view: View) -> Sequence[str]:
        return ()

    def needed(self, view: View, awaited: int) -> int:
        return awaited

    def may_close(self, view: View, now: float) -> bool:
        return False

    def deadline(self, view: View) -> float | None:
        return None

    def adopted(self: Policy, view: View) -> Policy:
        return self

    def opened(self: Policy) -> Policy:
        return self
