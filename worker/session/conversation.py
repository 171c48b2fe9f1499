"""One worker's conversation with a server about one group: what to send next, retries, back-off. Pure.

The one rule: I/O sends what `ask` gives and tells `answered` or `lost`; all that is decided is decided here.

The states, and how they follow one another, are in `course`. Named barriers stand beside them: see `arrival`.

A conversation is about one group, with a clock of its own. Lives are per server and a rank has one: the conversations
of a worker's groups share it (`SharedLife`), and it joins those groups alone, so that it holds up nobody in another.
What is learnt of the life in one is told to all. A conversation that is finished ends; the last one leaves.

A reply counts for the attempt that it answers, while that is the newest: `answered` wants the very object
that `ask` gave. After `lost` that attempt is over, and the next one is an equal, new object. A join is one object
for all conversations that want it, to be sent by one of them at a time.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.membership import Departed, Joined, Leave
from leeway.protocol.offers import Offered
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Pushed, PushPulled, Staged
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.worker.session.course import Course
from leeway.worker.session.refusals import REACTIONS, Reaction
from leeway.worker.session.states import State

if TYPE_CHECKING:
    from random import Random

    from leeway.protocol.messages import Reply
    from leeway.worker.session.course import Ask
    from leeway.worker.session.shared_life import SharedLife

# A goodbye only spares the others the lease's time; a server that is gone itself must not hold up our end.
LEAVE_ATTEMPTS = 3


class Conversation(Course):
    """About `group`, in a life `shared` with those about other groups: all of them begin before any of them joins, or
    take the place of those that did (`SharedLife.replace`).

    `random` is for the jitter alone.
    `wait_seconds`: how long the server may park a pull before it says "not yet" (None: not at all).
    """

    def __init__(
        self, shared: SharedLife, *, random: Random, group: str = DEFAULT_GROUP, wait_seconds: float | None = 20.0
    ) -> None:
        super().__init__(shared, group, random, wait_seconds)
        shared.conversations.append(self)

    @property
    def delay_seconds(self) -> float:
        """How long to wait before sending what `ask` gives."""
        return self._pace.delay_seconds

    def ask(self) -> Ask | None:
        """The request to send now; None when there is none, in COMPUTING and ENDED.

        The same object until it is answered or lost.
        """
        if self._asked is None or self.state is State.JOINING:
            self._asked = self._next()
        return self._asked

    def _next(self) -> Ask | None:
        match self.state:
            case State.JOINING:
                return self.shared.ask()
            case State.OFFERING:
                return self._offering.ask()
            case State.PULLING:
                return Pull(self.group, self.life, self.clock, since=self._held, wait_seconds=self.wait_seconds)
            case State.PUSHING:
                assert self.update.push is not None
                return dataclasses.replace(self.update.push)
            case State.LEAVING:
                assert self.life is not None
                return Leave(self.life)
            case State.COMPUTING | State.ENDED:
                return None

    # What the worker wants.

    def part(self) -> bool:
        """Ask for the end of the update in hand alone, and for the next parameters later: they may be long in coming.

        Returns whether a request that asks for both is to be sent again.
        """
        if not self.update.part():
            return False
        if self.state is State.PUSHING:
            self._asked = None
        return True

    def leave(self) -> None:
        """End the life in good order, for all groups. Updates in hand are dropped, accepted or not."""
        self.shared.leave(self)

    # What came back.

    def answered(self, request: object, reply: Reply, retry_after_seconds: float | None = None) -> None:
        """The server's reply to what `ask` gave; a reply to anything else is ignored.

        `retry_after_seconds`: the server's wish (HTTP `Retry-After`).
        Raises the refusal's `WireError` when it is for the user: a schema conflict, a wrong tensor, a body
        too large. The grant is kept then, so another update can be pushed in place of the refused one.
        """
        if not self._is_newest(request):
            return
        self._give_up()
        if not (isinstance(reply, Refused) and REACTIONS[reply.error.code].passes):
            self._pace.answered()
        match self.state, reply:
            case _, Refused(error):
                self._refused(error, retry_after_seconds)
            case State.JOINING, Joined():
                self.shared.joined(reply)
            case State.JOINING, NotYet():
                self._pace.not_yet(retry_after_seconds, parked=True)
            case State.PUSHING, Staged():
                # The other stages have not pushed in the time to wait: the same part asks again.
                self._pace.not_yet(retry_after_seconds, parked=True)
            case State.OFFERING, Offered():
                if self._offering.answered(reply.wanted):
                    self._to_pulling()
            case State.PULLING, Granted() | NotYet():
                self._pulled(reply, retry_after_seconds)
            case State.PUSHING, Pushed():
                self._pushed(reply)
            case State.PUSHING, PushPulled(pushed, pulled):
                self._pushed(pushed)
                if self.ending is None:
                    self._pulled(pulled, retry_after_seconds)
            case State.LEAVING, Departed():
                self.state = State.ENDED
            case _:
                raise WireError(Code.INTERNAL, f"the server answered {request} with: {reply}")

    def lost(self, request: object = None) -> None:
        """The connection was lost, or the time is over. The request may or may not have been heard.

        `request`: which one; nothing happens when that attempt was over already. None: the newest.
        """
        if request is None or self._is_newest(request):
            self._give_up()
            self._failed(None)

    @property
    def _is_made_here(self) -> bool:
        return self.group in self.shared.create and self.state is not State.JOINING

    def _is_newest(self, request: object) -> bool:
        if self.state is State.JOINING:
            return self.shared.is_newest(request)
        return self._asked is not None and request is self._asked

    def _give_up(self) -> None:
        """The attempt is over."""
        self._asked = None
        if self.state is State.JOINING:
            self.shared.give_up_join()

    def _failed(self, retry_after_seconds: float | None) -> None:
        self._pace.failed(retry_after_seconds)
        if self.state is State.LEAVING and self._pace.failures >= LEAVE_ATTEMPTS:
            self.state = State.ENDED

    def _refused(self, error: WireError, retry_after_seconds: float | None) -> None:
        code = error.code
        match REACTIONS[code]:
            case Reaction.AGAIN | Reaction.WAIT:
                self._failed(retry_after_seconds)
            case _ if self.state is State.LEAVING:
                # Evicted, fenced, of an old epoch: the life that was to end is no more.
                self.state = State.ENDED
            case Reaction.REJOIN:
                self.rejoin(code)
            case Reaction.DROP:
                self.update.drop(code)
                self.rejoin(code)
            case Reaction.NEW_LIFE | Reaction.NEXT_LIFE | Reaction.STOP:
                pending = self.shared.over(error)
                if self in pending:
                    self.state = State.PUSHING
                if pending:
                    self._failed(retry_after_seconds)
            case Reaction.LEAVE:
                self.shared.give_way(error, self)
            case Reaction.FINISH if self.state is State.JOINING:
                self.shared.finish(error)
            case Reaction.FINISH:
                self.finish(error)
            case Reaction.TELL if code is Code.UNKNOWN_GROUP and self._is_made_here:
                # A server that has lost it in a crash: the next join makes it anew.
                self.rejoin(code)
            case Reaction.SKIP if self.in_hand:
                tensor = error.facts.get("tensor")
                self.update.become_skip(code, tensor if isinstance(tensor, str) else None)
            case _:
                if self.state is State.PUSHING:
                    self.update.drop(code)
                    self.state = State.COMPUTING
                raise error

    def _pulled(self, pulled: Granted | NotYet | Refused, retry_after_seconds: float | None) -> None:
        match pulled:
            case Granted():
                self._granted(pulled)
            case NotYet():
                self._not_yet(retry_after_seconds)
                if pulled.reason is Reason.NO_PARAMETERS and self._offering.question.specs:
                    # Somebody else was offering them, and the server failed to store them.
                    self._to_offering()
            case Refused(error):
                self._refused(error, retry_after_seconds)

    def _not_yet(self, retry_after_seconds: float | None) -> None:
        self._pace.not_yet(retry_after_seconds, parked=self.wait_seconds is not None)
