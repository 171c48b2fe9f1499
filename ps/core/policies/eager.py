"""What the policies without rounds have in common: a push takes effect on arrival, a joiner begins with the slowest.

The one rule: nobody computes before all have joined who begin together; then whoever comes or goes holds up nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Answer, Park
from leeway.ps.core.policies.policy import Reception

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.ps.core.decisions import Decision
    from leeway.ps.core.policies.policy import View


class Eager:
    __slots__ = ()

    def enter_clock(self, view: View) -> int:
        return view.min_clock

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

    def may_close(self, view: View) -> bool:
        return False

    def adopted(self, view: View) -> Self:
        return self

    def opened(self) -> Self:
        return self
