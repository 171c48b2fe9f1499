"""Two ranks that push the same update, as they do when both read the same data: found once in each group. Pure.

The one rule: it holds no body. An update is known again by its numbers; whoever sent the other one is told with its
body only where somebody else has that in memory still, as a round has.

Only updates that were computed from the same version are compared: from another one the same data give another update.
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leeway.protocol.pushes import UpdateKind

if TYPE_CHECKING:
    from leeway.protocol.pushes import Push

# Updates that are remembered in each group, the newest: a round of as many workers. Each has a few hundred bytes.
REMEMBERED = 1024

# Of fewer trainable elements nothing is said: the first step of Adam, say, has two values for each element, and a
# handful of them is the same for unlike data every now and then.
FEWEST_ELEMENTS = 128


@dataclass(frozen=True, slots=True)
class Mark:
    """What an update is known again by: from which version, of what kind and which part, and its numbers."""

    version: int
    kind: UpdateKind
    part: int
    elements: int
    sums: tuple[float, ...]
    begins: int


@dataclass(frozen=True, slots=True)
class Twin:
    """The rank that has pushed an update that looks the same; `body` None: it is gone already."""

    rank: str
    body: memoryview | None


class SameUpdates:
    """Those of one group."""

    def __init__(self) -> None:
        self._newest: OrderedDict[Mark, tuple[str, weakref.ref[memoryview]]] = OrderedDict()
        self._told = False

    def look(self, push: Push, elements: int, sums: tuple[float, ...], begins: int, body: memoryview) -> Twin | None:
        """Remember this update; return whose newest one looks the same, if anybody's does.

        `elements`: how many of it are trained; `sums`, `begins`: numbers of their values.
        Nothing is said of updates that are small, or all zero, or not finite, of which nobody has looked at the
        numbers, and of whole weights, which are the same wherever nothing was learned.
        """
        if self._told or push.kind in (UpdateKind.SKIP, UpdateKind.MODEL):
            return None
        if elements < FEWEST_ELEMENTS or not any(sums) or not all(map(math.isfinite, sums)):
            return None
        rank = push.life.rank
        mark = Mark(push.version, push.kind, push.part, elements, sums, begins)
        before = self._newest.get(mark)
        if before is not None and before[0] != rank:
            return Twin(before[0], before[1]())
        self._newest[mark] = rank, weakref.ref(body)
        if len(self._newest) > REMEMBERED:
            self._newest.popitem(last=False)
        return None

    def tell(self) -> bool:
        """Whether it is to be said now; from here on nothing is looked at."""
        first, self._told = not self._told, True
        self._newest.clear()
        return first
