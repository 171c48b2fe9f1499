"""The parked pulls of one group.

Invariants: a process waits with one pull at most (a newer one replaces it); every parked request is answered exactly
once, unless its asker is gone. Whoever is parked is looked at again whenever something it depends on has changed,
not only when the clock that it waits for is reached exactly: the minimum can jump.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leeway.protocol import limits
from leeway.protocol.codes import Code
from leeway.protocol.pushes import PushPulled
from leeway.protocol.refusals import refuse
from leeway.ps.core.effects import Answered, Parked

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from leeway.protocol.pulls import Granted, NotYet, Pull
    from leeway.protocol.pushes import Pushed
    from leeway.protocol.refusals import Refused
    from leeway.ps.core.decisions import Park
    from leeway.ps.core.effects import Effect
    from leeway.ps.core.lives import Incarnation


@dataclass(slots=True, eq=False)
class Waiting:
    """A parked pull. `member` None: a reader's. `pushed`: the result of the push it came with."""

    request: int
    pull: Pull
    member: Incarnation | None
    until: float
    pushed: Pushed | None

    @property
    def stage(self) -> int | None:
        return self.pull.life.stage if self.pull.life else None


class WaitingRoom:
    def __init__(self, group: str, emit: Callable[[Effect], None]) -> None:
        self._group = group
        self._emit = emit
        self._all: dict[int, Waiting] = {}
        # By life and stage.
        self._of_workers: dict[tuple[Incarnation, int | None], Waiting] = {}
        self._stopped: Refused | None = None
        # How many pulls of workers no longer wait.
        self.left = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Waiting]:
        """In the order of arrival; may be answered while iterated."""
        return iter(list(self._all.values()))

    @property
    def members(self) -> Collection[Waiting]:
        """The pulls of workers, in the order of arrival."""
        return self._of_workers.values()

    def of(self, member: Incarnation) -> Waiting | None:
        """What this life waits with; of a replica, one of its stages."""
        waits = (self._of_workers.get((member, seat.stage)) for seat in member.seats)
        return next((waiting for waiting in waits if waiting), None)

    def of_stage(self, member: Incarnation, stage: int | None) -> Waiting | None:
        return self._of_workers.get((member, stage))

    def park(self, waiting: Waiting, why: Park) -> None:
        if self._stopped:
            self.say(waiting.request, waiting.pushed, self._stopped)
            return
        if waiting.member is None and len(self._all) - len(self._of_workers) >= limits.MAX_PARKED_READERS:
            busy = refuse(Code.BUSY, f"{limits.MAX_PARKED_READERS} readers wait already; ask again later")
            self.say(waiting.request, waiting.pushed, busy)
            return
        self._all[waiting.request] = waiting
        rank, number, stage = None, 0, None
        if waiting.member:
            rank, number, stage = waiting.member.rank, waiting.member.number, waiting.stage
            assert (waiting.member, stage) not in self._of_workers
            self._of_workers[waiting.member, stage] = waiting
        self._emit(Parked(waiting.request, self._group, rank, number, why.reason, why.detail, why.waiting_for, stage))

    def answer(self, waiting: Waiting, reply: Granted | NotYet | Refused) -> None:
        self.gone(waiting.request)
        self.say(waiting.request, waiting.pushed, reply)

    def say(self, request: int, pushed: Pushed | None, pulled: Granted | NotYet | Refused) -> None:
        """Answer a pull, together with the result of the push it came with."""
        self._emit(Answered(request, PushPulled(pushed, pulled) if pushed else pulled))

    def release(self, member: Incarnation, reply: Callable[[int | None], NotYet | Refused]) -> None:
        """Answer all that this life waits with, if anything. `reply`: by stage."""
        for seat in member.seats:
            if waiting := self.of_stage(member, seat.stage):
                self.answer(waiting, reply(seat.stage))

    def gone(self, request: int) -> None:
        waiting = self._all.pop(request, None)
        if waiting and waiting.member:
            del self._of_workers[waiting.member, waiting.stage]
            self.left += 1

    def paused(self, seconds: float, now: float) -> None:
        """The last `seconds` are not part of anybody's wait; who was parked within them has waited for nothing yet."""
        for waiting in self._all.values():
            assert waiting.pull.wait_seconds is not None, "who does not want to wait is never parked"
            waiting.until = min(waiting.until + seconds, now + waiting.pull.wait_seconds)

    def expired(self, now: float) -> list[Waiting]:
        return [waiting for waiting in self if waiting.until <= now]

    def stop(self, refusal: Refused) -> None:
        """Nobody waits any more: not those who do now, nor the pull that comes with a push still being applied."""
        self._stopped = refusal
        for waiting in self:
            self.answer(waiting, refusal)
