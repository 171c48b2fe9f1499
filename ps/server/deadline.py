"""The one timer that the machine has: it is called at the moment that `Machine.next_deadline` names.

The one rule: it may be early (a loop's clock is coarse), never forgotten: whoever is called asks for the next moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Deadline:
    """`clock`: the machine's, in seconds. `reached`: called at the moment, on the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], reached: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._reached = reached
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float | None) -> None:
        """The next moment, in place of the one before; None: there is none."""
        if at == self._at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = None if at is None else self._loop.call_later(max(0.0, at - self._clock()), self._ring)

    def _ring(self) -> None:
        self._at = self._timer = None
        self._reached()
