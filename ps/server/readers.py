"""Readers that are being sent a version, and what becomes of one so slow that it pins old versions.

The one rule: nobody is cut off while there is room. When the applier has to wait for a version's memory, whoever
still reads an old version gets a deadline; then the connection is closed, and the memory is free.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from leeway.ps.arithmetic.versions import Snapshot

# A reader at 1 MB/s gets this many megabytes more of an old version while everybody else waits for its memory.
DEADLINE_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class _Reading:
    group: str
    number: int
    transport: asyncio.Transport | None
    until: float | None = None


class Readers:
    """`on_closed` is called for each connection that was closed."""

    def __init__(self, on_closed: Callable[[], None]) -> None:
        self._on_closed = on_closed
        self._reading: set[_Reading] = set()

    def __len__(self) -> int:
        """How many are reading."""
        return len(self._reading)

    def lend(self, group: str, version: Snapshot, transport: asyncio.Transport | None) -> memoryview:
        """A version's body for one reader, which counts as reading until nobody refers to any part of it.

        A handler's end is not the end of reading: the transport goes on to hold what is unsent.
        """
        reading = _Reading(group, version.number, transport)
        self._reading.add(reading)
        lent = np.frombuffer(version.body, np.uint8) if version.body.nbytes else np.empty(0, np.uint8)
        weakref.finalize(lent, self._reading.discard, reading).atexit = False
        return lent.data

    def press(self, group: str, current: int, now: float) -> None:
        """Memory is short in this group: whoever reads a version older than `current` gets a deadline."""
        for reading in list(self._reading):
            if reading.group == group and reading.number < current and reading.until is None:
                reading.until = now + DEADLINE_SECONDS

    def paused(self, seconds: float, now: float) -> None:
        """The last `seconds` are not the readers' fault."""
        for reading in self._reading:
            if reading.until is not None:
                reading.until = min(reading.until + seconds, now + DEADLINE_SECONDS)

    def close_late(self, now: float) -> None:
        """Close the connections whose deadline has passed."""
        for reading in list(self._reading):
            if reading.until is not None and reading.until <= now:
                self._reading.discard(reading)
                if reading.transport is not None:
                    reading.transport.abort()
                self._on_closed()
