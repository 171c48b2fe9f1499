"""A worker's arrival at a named barrier: what is sent until it is passed. Pure.

The one rule: a barrier is the worker's, and stands beside the conversations of its groups: it is asked while their
requests are under way, and waits for none of them. Where the life is gone it is asked for by a conversation first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol.barriers import Barrier, Passed
from leeway.protocol.codes import Code
from leeway.protocol.pulls import NotYet
from leeway.protocol.refusals import Refused
from leeway.worker.session.pace import Pace
from leeway.worker.session.refusals import REACTIONS, Reaction

if TYPE_CHECKING:
    from random import Random

    from leeway.protocol.messages import Reply
    from leeway.worker.session.shared_life import SharedLife


class Arrival:
    """At the next generation of `name`, where `parties` are waited for at least; `passed` at its end.

    `wait_seconds`: how long the server may park it before it says "not yet" (None: not at all).
    """

    def __init__(
        self, shared: SharedLife, name: str, parties: int, *, random: Random, wait_seconds: float | None = 20.0
    ) -> None:
        self.passed = False
        self._shared = shared
        self._name = name
        self._parties = parties
        self._wait_seconds = wait_seconds
        self._pace = Pace(random)
        self._asked: Barrier | None = None

    @property
    def delay_seconds(self) -> float:
        """How long to wait before sending what `ask` gives."""
        return self._pace.delay_seconds

    def ask(self) -> Barrier | None:
        """The request to send now, the same object until it is answered or lost; None when there is none: it is passed,
        or there is no life, to be asked for first, or none any more."""
        life = self._shared.life
        if self.passed or life is None or self._shared.ended or self._shared.joining:
            self._asked = None
        elif self._asked is None or self._asked.life != life:
            generation = self._shared.barriers.get(self._name, 0)
            self._asked = Barrier(life, self._name, generation, self._parties, self._wait_seconds)
        return self._asked

    def answered(self, request: Barrier, reply: Reply, retry_after_seconds: float | None = None) -> None:
        """The server's reply to what `ask` gave; a reply to anything else is ignored.

        Raises the refusal's `WireError` when it is for the user.
        """
        if self.ask() is not request:
            return
        self._asked = None
        match reply:
            case Passed():
                self._shared.barriers[request.name] = request.generation + 1
                self.passed = True
            case NotYet():
                self._pace.not_yet(retry_after_seconds, parked=self._wait_seconds is not None)
            case Refused(error):
                self._refused(error, retry_after_seconds)
            case _:
                raise WireError(Code.INTERNAL, f"the server answered {request} with: {reply}")

    def lost(self, request: Barrier) -> None:
        """The connection was lost; the server may have counted this worker."""
        if self.ask() is request:
            self._asked = None
            self._pace.failed(None)

    def _refused(self, error: WireError, retry_after_seconds: float | None) -> None:
        match REACTIONS[error.code]:
            case Reaction.AGAIN | Reaction.WAIT:
                self._pace.failed(retry_after_seconds)
            case Reaction.REJOIN | Reaction.DROP:
                self._pace.answered()
                self._shared.going[0].rejoin(error.code)
            case Reaction.NEW_LIFE | Reaction.NEXT_LIFE | Reaction.STOP:
                self._pace.answered()
                if self._shared.over(error):
                    self._pace.failed(retry_after_seconds)
            case Reaction.FINISH:
                self._shared.finish(error)
            case _:
                raise error
