"""The calls of a client that are under way, and how they end when the client does.

The one rule: a client that is closed stays closed. Whoever waits in a call is told, and nobody begins another.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from leeway.errors import SessionClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# For a call that was under way when its client ended.
IN_DOUBT = "an update that was being pushed may have been applied or not"


class Calls:
    """Those of one client. `closed`: why there can be no other, once that is so."""

    def __init__(self) -> None:
        self.closed: str | None = None
        self._ends: dict[asyncio.Timeout, str | None] = {}

    def check(self) -> None:
        """Raise `SessionClosed` when it is closed."""
        if self.closed is not None:
            raise SessionClosed(self.closed)

    @contextlib.asynccontextmanager
    async def under_way(self) -> AsyncIterator[None]:
        """One of them. Raises `SessionClosed` when it is ended, and when the client is closed already."""
        self.check()
        end = asyncio.timeout(None)
        self._ends[end] = None
        try:
            async with end:
                yield
        except TimeoutError:
            why = self._ends[end]
            if why is None:
                raise
            raise SessionClosed(f"{why}, while this call waited; {IN_DOUBT}") from None
        finally:
            del self._ends[end]

    def end(self, why: str) -> None:
        """End all that are under way: they let go as if they were cancelled. Waits for nothing."""
        now = asyncio.get_running_loop().time()
        for end, before in self._ends.items():
            if before is None:
                self._ends[end] = why
                end.reschedule(now)

    def close(self, why: str) -> None:
        """End them, and let nobody begin another. Can be called again; the first reason stands."""
        if self.closed is None:
            self.closed = why
        self.end(self.closed)
