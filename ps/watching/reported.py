"""The figures that workers report with their pushes: of each live rank those of its last push.

The one rule: none of them is a reason to refuse an update. What is over a limit is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from leeway.protocol import limits

if TYPE_CHECKING:
    from collections.abc import Mapping

_NONE: dict[str, float | None] = {}


class Reported:
    """Invariant: `_names` counts for each name the ranks that report it now; there are `MAX_METRIC_NAMES` at most."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, float | None]] = {}
        self._names: Counter[str] = Counter()

    def of(self, rank: str) -> Mapping[str, float | None]:
        """JSON has no NaN: a loss that has diverged is None."""
        return self._of.get(rank, _NONE)

    @property
    def names(self) -> list[str]:
        """All that are reported now."""
        return sorted(self._names)

    def take(self, rank: str, figures: Mapping[str, float]) -> list[str]:
        """In place of those that this rank has reported before. Returns the names that were left out."""
        self.forget(rank)
        taken: dict[str, float | None] = {}
        left_out = []
        for name, value in figures.items():
            if _fits(name) and (name in self._names or len(self._names) < limits.MAX_METRIC_NAMES):
                taken[name] = value if math.isfinite(value) else None
                self._names[name] += 1
            else:
                left_out.append(name)
        self._of[rank] = taken
        return left_out

    def forget(self, rank: str) -> None:
        """A name that nobody reports any more makes room for another."""
        for name in self._of.pop(rank, _NONE):
            self._names[name] -= 1
            if not self._names[name]:
                del self._names[name]


def _fits(name: str) -> bool:
    return name.isprintable() and 1 <= len(name.encode()) <= limits.MAX_METRIC_NAME_BYTES
