"""What the neighbours of a stage have handed to it in one iteration: what waits, what is coming, what there was.

The one rule: pure. Each handover is taken once, and no more of them than there is room for; but what the computing
waits for has room always, else what came too early could keep it out for ever.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Generic, TypeVar

from leeway.protocol.handovers import Direction

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")

# Sender, direction, micro-batch.
Key = tuple[int, Direction, int]


class Boxes(Generic[T]):
    """Of the iteration `clock`: `room` for each sender and direction."""

    def __init__(self, clock: int, room: int) -> None:
        self.clock = clock
        self._room = room
        self._here: dict[Key, T] = {}
        self._coming: set[Key] = set()
        self._wanted: set[Key] = set()
        self._taken: set[Key] = set()

    @property
    def waiting(self) -> int:
        """How many are here."""
        return len(self._here)

    def had(self, key: Key) -> bool:
        return key in self._taken

    def has_room(self, key: Key) -> bool:
        """Whether it may come now: not twice at once, either."""
        if key in self._coming:
            return False
        occupied = sum(other[:2] == key[:2] for held in (self._here, self._coming) for other in held)
        return key in self._wanted or occupied < self._room

    @contextlib.contextmanager
    def coming(self, key: Key) -> Iterator[None]:
        """It is being received, and has its room. Left without `put` it can come again."""
        assert self.has_room(key), key
        self._coming.add(key)
        try:
            yield
        finally:
            self._coming.discard(key)

    def put(self, key: Key, handed: T) -> None:
        self._taken.add(key)
        self._here[key] = handed

    @contextlib.contextmanager
    def wanting(self, key: Key) -> Iterator[None]:
        """The computing waits for it."""
        self._wanted.add(key)
        try:
            yield
        finally:
            self._wanted.discard(key)

    def is_here(self, key: Key) -> bool:
        return key in self._here

    def take(self, key: Key) -> T:
        """Out of its box, where it `is_here`. Its memory is the taker's from now on."""
        return self._here.pop(key)
