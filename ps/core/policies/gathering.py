"""What the policies with rounds have in common: everybody reads the same version, one aggregated step per round.

A pull is answered to a member that has not contributed to the open round, once the round before is closed and its
step, if any, is published. Whose round has closed without it goes on with the next one to open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Answer, Park, in_words
from leeway.ps.core.policies.policy import Reception
from leeway.ps.core.policies.switching import Switching, waits_for_nobody
from leeway.ps.core.rounds import RoundState

if TYPE_CHECKING:
    from leeway.ps.core.decisions import Decision
    from leeway.ps.core.policies.policy import Policy, View


class Gathering:
    __slots__ = ()

    has_rounds: ClassVar[bool] = True

    def enter_clock(self, view: View) -> int:
        return view.rounds.next_number

    def caught_up(self, view: View, rank: str) -> int:
        rounds = view.rounds
        gone_by = rounds.number if rounds.state is not RoundState.APPLYING else rounds.number + 1
        return rounds.next_number if view.clock_of(rank) < gone_by else view.clock_of(rank)

    def pull(self: Policy, view: View, rank: str) -> Decision:
        rounds = view.rounds
        if rounds.state is RoundState.WAITING:
            awaited = tuple(self.awaited(view))
            if not awaited:
                return waits_for_nobody(view)
            detail = f"round {rounds.number} opens with all; it waits for {in_words(awaited)}"
            return Park(Reason.NEXT_ROUND, detail, awaited, rounds.number)
        if rounds.state is RoundState.APPLYING:
            return Park(Reason.WAITING_FOR_STEP, f"the step of round {rounds.number} is being applied")
        if rank in rounds.missing:
            return Answer(Reason.GRANTED)
        missing = tuple(rounds.missing)
        if rank in rounds.held and view.clock_of(rank) == rounds.number + 1:
            detail = f"round {rounds.number} waits for {in_words(missing)}"
            return Park(Reason.WAITING_FOR_ROUND, detail, missing, rounds.number + 1)
        return Park(
            Reason.NEXT_ROUND,
            f"{rank} goes on with round {rounds.number + 1}; round {rounds.number} waits for {in_words(missing)}",
            missing,
            rounds.number + 1,
        )

    def push(self, view: View, rank: str) -> Reception:
        # Nobody is late unless rounds have closed without somebody: under a quorum that was asked for before this.
        return Reception.IN_ROUND if rank in view.rounds.missing else Reception.LATE

    def may_close(self: Policy, view: View, now: float) -> bool:
        deadline = self.deadline(view)
        return view.rounds.complete or (deadline is not None and deadline <= now)

    def adopted(self: Policy, view: View) -> Policy:
        return Switching(self, view.furthest_granted)

    def opened(self: Policy) -> Policy:
        return self
