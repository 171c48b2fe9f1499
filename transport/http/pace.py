"""How fast a body has to come: whoever sends one byte now and then keeps memory, and a place, for as long as it likes.

The one rule: no chunk pays for this. One timer looks at how much has come since it looked last.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, Self

from leeway.protocol.limits import MAX_BODY_WINDOW_SECONDS, MIN_BODY_WINDOW_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# After a pause of this process its timers come before what has arrived meanwhile.
GRACE_SECONDS = 0.1


class Content(Protocol):
    @property
    def total_bytes(self) -> int:
        """How many have come so far."""


class Pace:
    """A block in which `content` is awaited. `too_slow` is called when too little of it comes, at most once."""

    __slots__ = ("_content", "_seen_bytes", "_timer", "_too_slow")

    def __init__(self, content: Content, too_slow: Callable[[], None]) -> None:
        self._content = content
        self._too_slow = too_slow
        self._seen_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        self._seen_bytes = self._content.total_bytes
        self._timer = asyncio.get_running_loop().call_later(MAX_BODY_WINDOW_SECONDS, self._look)

    def _look(self) -> None:
        if self._enough():
            self._begin()
        else:
            self._timer = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._look_again)

    def _look_again(self) -> None:
        if self._enough():
            self._begin()
        else:
            self._timer = None
            self._too_slow()

    def _enough(self) -> bool:
        return self._content.total_bytes - self._seen_bytes >= MIN_BODY_WINDOW_BYTES
