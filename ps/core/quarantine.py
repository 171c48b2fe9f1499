"""Who is kept out, and why: a rank of which too many updates in a row were refused, or that an admin has named.

The one rule: whoever is in quarantine has no life and gets none, until an admin lets it in; what was accepted of it
stays. It outlives a restart. What a rank has done is known over its lives: it does not begin anew by joining again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol import limits
from leeway.protocol.codes import Code
from leeway.protocol.quarantine import MAX_WHY, QuarantineState
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused, refuse
from leeway.ps.core.effects import Answered, Quarantined, Released

if TYPE_CHECKING:
    from leeway.protocol.quarantine import Quarantine, Release
    from leeway.ps.core.lives import Incarnation
    from leeway.ps.core.machine import Machine


class Quarantines:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        # Why, by rank, in the order in which they came here.
        self.why: dict[str, str] = {}
        # How many updates of a rank were refused since one was accepted.
        self._refused: dict[str, int] = {}

    def take(self, request: int, message: Quarantine | Release) -> None:
        """An admin has asked for it."""
        self._machine.emit(Answered(request, self._judge(message.rank, getattr(message, "why", None))))

    def _judge(self, rank: str, why: str | None) -> QuarantineState | Refused:
        if why is None:
            if self.why.pop(rank, None) is None:
                return refuse(Code.INVALID_VALUE, f"{rank} is not in quarantine; there {self._in_words()}")
            self._machine.emit(Released(rank))
            return QuarantineState(rank)
        if rank not in self.why and len(self.why) >= limits.MAX_RANKS:
            return refuse(Code.BUSY, f"{len(self.why)} ranks are in quarantine, and more are not remembered")
        self._put(rank, why)
        return QuarantineState(rank, why)

    def refusal(self, rank: str) -> Refused | None:
        """What a rank is told that wants to join; None: it may."""
        why = self.why.get(rank)
        return None if why is None else refuse(Code.QUARANTINED, _told(rank, why), last={})

    def refused(self, member: Incarnation, why: str) -> Refused:
        """One of its updates is: what its sender is told. It is one too many where others were before it."""
        rank = member.rank
        count = self._refused[rank] = self._refused.get(rank, 0) + 1
        most = self._machine.settings.quarantine_after
        if count < most:
            return refuse(Code.UPDATE_TOO_LARGE, why, refused=count, quarantine_after=most)
        before = f"{count} updates in a row were refused; of the last one " if count > 1 else "of an update "
        self._put(rank, f"{before}{why}"[:MAX_WHY])
        return member.refusal()

    def accepted(self, rank: str) -> None:
        """An update of it."""
        self._refused.pop(rank, None)

    def _put(self, rank: str, why: str) -> None:
        machine = self._machine
        self.why[rank] = why
        self._refused.pop(rank, None)
        machine.emit(Quarantined(rank, why))
        if life := machine.membership.of_rank(rank):
            machine.end(life, Reason.QUARANTINED, _told(rank, why))
        machine.joins.turn_away(rank, refuse(Code.QUARANTINED, _told(rank, why), last={}))

    def _in_words(self) -> str:
        if not self.why:
            return "is nobody"
        named = list(self.why)[: limits.MAX_NAMED_WAITERS]
        more = f" and {len(self.why) - len(named)} others" if len(self.why) > len(named) else ""
        return f"{'is' if len(self.why) == 1 else 'are'} {', '.join(named)}{more}"


def _told(rank: str, why: str) -> str:
    return f"{rank} is in quarantine: {why}; whoever runs the server can let it in again"
