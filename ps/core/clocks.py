"""The clocks of the live workers of one group, and the smallest of them.

Invariants: the minimum never decreases, and keeps its value when nobody is live. A change costs O(1) on average,
however many workers there are: per clock value only a count is kept.
"""

from __future__ import annotations

from collections import Counter


class Clocks:
    def __init__(self, minimum: int = 0) -> None:
        self.minimum = minimum
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return self._counts.total()

    @property
    def maximum(self) -> int:
        """The largest live clock; the minimum when nobody is live."""
        return max(self._counts, default=self.minimum)

    def add(self, clock: int) -> None:
        assert clock >= self.minimum, f"a worker may not start at {clock}, below the minimum {self.minimum}"
        self._counts[clock] += 1
        self._settle()

    def remove(self, clock: int) -> None:
        self._counts[clock] -= 1
        if not self._counts[clock]:
            del self._counts[clock]
        self._settle()

    def advance(self, clock: int, to: int) -> None:
        """One worker goes from `clock` on to a later one."""
        assert to > clock, f"a clock never goes back, from {clock} to {to}"
        self._counts[to] += 1
        self.remove(clock)

    def _settle(self) -> None:
        # The minimum can jump: by several steps when the slowest worker dies.
        if self._counts and not self._counts.get(self.minimum):
            self.minimum = min(self._counts)
