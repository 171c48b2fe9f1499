"""Lives in natural rank order: a newcomer among ten thousand finds its place at once.

The one rule: at most one life of a rank. Whoever goes through them sees them as they were when it began.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from leeway.protocol.ranks import natural

if TYPE_CHECKING:
    from leeway.ps.core.lives import Incarnation


class InOrder:
    def __init__(self) -> None:
        # Both are copied when they change, which is quicker than a look at each.
        self.lives: list[Incarnation] = []
        self._keys: list[tuple[tuple[int, int, str], ...]] = []

    def place(self, rank: str) -> int:
        """How many come before it."""
        return bisect_left(self._keys, natural(rank))

    def put(self, life: Incarnation) -> None:
        """In the place of another one of its rank, if there is one."""
        key, place = natural(life.rank), self.place(life.rank)
        behind = place + (self._keys[place : place + 1] == [key])
        self.lives = [*self.lives[:place], life, *self.lives[behind:]]
        self._keys = [*self._keys[:place], key, *self._keys[behind:]]

    def remove(self, life: Incarnation) -> None:
        """It is there."""
        place = self.place(life.rank)
        assert self.lives[place] is life
        self.lives = [*self.lives[:place], *self.lives[place + 1 :]]
        self._keys = [*self._keys[:place], *self._keys[place + 1 :]]
