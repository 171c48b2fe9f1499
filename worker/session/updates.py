"""The update in hand, from when it is computed until its end is known. Pure: names and numbers only.

The one rule: it stays until the server has said what became of it, or it is certain that the server never will.
"""

from __future__ import annotations

import dataclasses
from enum import Enum, auto
from typing import TYPE_CHECKING

from leeway.protocol.pushes import UpdateKind
from leeway.protocol.reasons import Reason
from leeway.worker.session.states import Outcome

if TYPE_CHECKING:
    from leeway.protocol.codes import Code
    from leeway.protocol.lives import Life
    from leeway.protocol.pushes import LastPush, Push, Pushed


class Recall(Enum):
    """What a server that was asked about its last push says of the update in hand."""

    UNKNOWN = auto()  # it has not accepted it
    PENDING = auto()  # accepted, and being applied: pushed again it is answered when its disposition falls
    SETTLED = auto()  # its end is known now


class UpdateInHand:
    """At most one. Invariant: `push` is None when nothing is in hand; `outcome` is None while something is."""

    __slots__ = ("_refused_as", "_refused_tensor", "outcome", "push")

    def __init__(self) -> None:
        self.push: Push | None = None
        self.outcome: Outcome | None = None
        self._refused_as: Code | None = None
        self._refused_tensor: str | None = None

    def take(self, push: Push) -> None:
        assert self.push is None, "an update is in hand already"
        self.push = push
        self.outcome = None
        self._refused_as = self._refused_tensor = None

    def become_skip(self, code: Code, tensor: str | None = None) -> None:
        """The tensors were refused with this code: the iteration goes on without them, under the same name.

        `tensor`: which of them, if the refusal says so.
        """
        assert self.push is not None
        self.push = dataclasses.replace(
            self.push, kind=UpdateKind.SKIP, samples=0, keys=(), values=(), metrics={}, part=0, parts=1
        )
        self._refused_as, self._refused_tensor = code, tensor

    def part(self) -> bool:
        """Want no parameters in the reply to it any more. Returns whether they were."""
        if self.push is None or not self.push.pull:
            return False
        self.push = dataclasses.replace(self.push, pull=False, since=None, wait_seconds=None)
        return True

    def move(self, life: Life) -> None:
        """The same life goes on in a new epoch: the name stays, and the request must say the epoch."""
        assert self.push is not None
        self.push = dataclasses.replace(self.push, life=life)

    def settle(self, pushed: Pushed) -> None:
        reason = self._refused_as or pushed.reason
        self._end(
            Outcome(pushed.clock, pushed.disposition, reason, pushed.version, pushed.staleness, self._refused_tensor)
        )

    def is_pending(self, last: LastPush | None) -> bool:
        """Whether `recall` would say so, which settles nothing."""
        return last is not None and self._is_in_hand(last) and last.disposition is None

    def recall(self, last: LastPush | None) -> Recall:
        """Compare with the last push that the server has accepted of this life."""
        if last is None or not self._is_in_hand(last):
            return Recall.UNKNOWN
        if last.disposition is None:
            return Recall.PENDING
        reason = self._refused_as or Reason.REPEATED
        self._end(Outcome(last.clock, last.disposition, reason, tensor=self._refused_tensor))
        return Recall.SETTLED

    def _is_in_hand(self, last: LastPush) -> bool:
        return self.push is not None and last.clock == self.push.clock

    def without_step(self, clock: int, reason: Reason) -> None:
        """The update of iteration `clock` was held, and its round made no step: it is in no version."""
        if self.outcome is not None and self.outcome.disposition is not None and self.outcome.clock == clock:
            self.outcome = dataclasses.replace(self.outcome, reason=reason)

    def drop(self, reason: Code | Reason) -> None:
        """It is in no version and never will be. Nothing in hand: nothing happens."""
        if self.push is not None:
            self._end(Outcome(self.push.clock, None, reason))

    def _end(self, outcome: Outcome) -> None:
        self.push = None
        self.outcome = outcome
