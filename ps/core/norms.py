"""How large the updates of a group may be: by an absolute limit, and by the median of what was accepted of late.

The one rule: no rank has more weight in the median than another. Each is in it with its last few updates, so that
fewer than half of the ranks cannot move the limit to where they please, however often they push. (The median has a
breakdown point of one half: Huber and Ronchetti, Robust Statistics, 2009, 1.4.)
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from leeway.protocol.pushes import UpdateKind

# Of each rank so many count. Norms go down slowly, and a few of a rank are enough to know what is usual.
KEPT: Final = 8

# From so few nothing is concluded.
NEEDED: Final = 8


class Norms:
    """`most`: the largest norm that is taken. `ratio`: to the median. None: there is no such limit."""

    def __init__(self, most: float | None = None, ratio: float | None = None) -> None:
        self._most = most
        self._ratio = ratio
        # A gradient and a difference of weights are not of one size: what is compared is of one kind.
        self._usual: dict[UpdateKind, _Usual] = {}

    @property
    def matter(self) -> bool:
        """Whether an update's norm has to be measured."""
        return self._most is not None or self._ratio is not None

    def excess(self, kind: UpdateKind, norm: float) -> str | None:
        """Why an update of this norm is not taken; None: it is."""
        if self._most is not None and norm > self._most:
            return f"its norm is {norm:.4g}, and at most {self._most:g} is taken"
        usual = self._usual.get(kind)
        median = usual.median if usual is not None and self._ratio is not None else None
        if median and self._ratio and norm > self._ratio * median:
            return f"its norm is {norm:.4g}, more than {self._ratio:g} times the median of late, {median:.4g}"
        return None

    def accepted(self, rank: str, kind: UpdateKind, norm: float) -> None:
        if self._ratio is not None:
            self._usual.setdefault(kind, _Usual()).add(rank, norm)

    def forget(self, rank: str) -> None:
        """It is no longer there."""
        for usual in self._usual.values():
            usual.forget(rank)


class _Usual:
    """The last norms of each rank, and all of them in order."""

    def __init__(self) -> None:
        self._of: dict[str, deque[float]] = {}
        self._sorted: list[float] = []

    @property
    def median(self) -> float | None:
        """None: too few are known."""
        count = len(self._sorted)
        if count < NEEDED:
            return None
        middle = count // 2
        return (self._sorted[middle] + self._sorted[~middle]) / 2

    def add(self, rank: str, norm: float) -> None:
        last = self._of.setdefault(rank, deque())
        if len(last) == KEPT:
            self._take_out(last.popleft())
        last.append(norm)
        insort(self._sorted, norm)

    def forget(self, rank: str) -> None:
        for norm in self._of.pop(rank, ()):
            self._take_out(norm)

    def _take_out(self, norm: float) -> None:
        del self._sorted[bisect_left(self._sorted, norm)]
