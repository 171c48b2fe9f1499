"""Who has asked for something and has no reply yet.

The one rule: each request has a number of its own, and whoever asked gets one outcome for it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leeway.protocol.reasons import Reason

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from leeway.protocol.messages import Reply, Request
    from leeway.ps.arithmetic.versions import Snapshot


@dataclass(frozen=True, slots=True)
class Outcome:
    """A reply, and the version that a granted pull is answered with, pinned from the moment of the decision; of that
    the `keys` alone, None for all.
    """

    reply: Reply
    version: Snapshot | None = None
    keys: tuple[str, ...] | None = None


@dataclass(slots=True)
class Asking:
    """`since`: when it was asked. `waited_for`: why it was parked last."""

    message: Request
    since: float
    outcome: asyncio.Future[Outcome]
    waited_for: Reason = Reason.GRANTED


class Askers:
    """`first`: the number of the first request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], first: int) -> None:
        self._loop = loop
        self._clock = clock
        self._numbers = itertools.count(first)
        self._asking: dict[int, Asking] = {}

    def __len__(self) -> int:
        """How many have no reply yet."""
        return len(self._asking)

    def enter(self, message: Request) -> tuple[int, asyncio.Future[Outcome]]:
        """The number of this request, and what comes of it."""
        number = next(self._numbers)
        asking = self._asking[number] = Asking(message, self._clock(), self._loop.create_future())
        return number, asking.outcome

    def parked(self, request: int, reason: Reason) -> bool:
        """It has to wait. Returns whether anybody is there who does."""
        asking = self._asking.get(request)
        if asking is None:
            return False
        asking.waited_for = reason
        return True

    def leave(self, request: int) -> Asking | None:
        """It has its reply, or its asker is gone. None: that was so before."""
        return self._asking.pop(request, None)

    def paused(self, seconds: float, now: float) -> None:
        """Nobody is charged with a wait for the last `seconds`."""
        for asking in self._asking.values():
            asking.since = min(asking.since + seconds, now)

    def end(self, outcome: Outcome) -> None:
        """All get this one."""
        for asking in self._asking.values():
            if not asking.outcome.done():
                asking.outcome.set_result(outcome)
        self._asking.clear()
