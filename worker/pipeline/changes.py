"""Something has changed, look again: for coroutines of one loop that wait until what they want is so."""

from __future__ import annotations

import asyncio


class Changes:
    """Whoever waits looks first, and again after each `wait`."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self) -> None:
        await self._next.wait()
