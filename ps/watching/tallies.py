"""What has happened in a group since the server started, as the status tells it.

The one rule: a tally is a handful of numbers, however long the run and however many workers there are.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from leeway.ps.watching.catalogue import STALENESS_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterable


def _none_yet() -> list[int]:
    return [0] * (len(STALENESS_BUCKETS) + 1)


@dataclass(slots=True)
class Tally:
    """`updates`: accepted ones, skips not counted. `staleness_counts`: of those that were applied, how many lie at or
    below each of `STALENESS_BUCKETS` and above the bound before it; the last count is of those above all bounds.
    `rounds_without_step`: closed with too few updates for their rule; `rounds_since_step`: the newest of them in a row.
    `gradient_norm`: the newest that was measured.
    """

    updates: int = 0
    rounds_without_step: int = 0
    rounds_since_step: int = 0
    staleness_counts: list[int] = field(default_factory=_none_yet)
    gradient_norm: float | None = None

    def too_few(self) -> None:
        """A round has closed with fewer updates than its rule needs."""
        self.rounds_without_step += 1
        self.rounds_since_step += 1

    def stepped(self, staleness: Iterable[int], gradient_norm: float | None) -> None:
        self.rounds_since_step = 0
        for versions in staleness:
            self.staleness_counts[bisect_left(STALENESS_BUCKETS, versions)] += 1
        if gradient_norm is not None:
            self.gradient_norm = gradient_norm

    def to_fields(self) -> dict[str, Any]:
        """JSON-ready; JSON has no NaN: the norm of a gradient that has diverged is null."""
        norm = self.gradient_norm
        return {
            "updates": self.updates,
            "rounds_without_step": self.rounds_without_step,
            "rounds_since_step": self.rounds_since_step,
            "staleness": {"bounds": [int(bound) for bound in STALENESS_BUCKETS], "counts": list(self.staleness_counts)},
            "gradient_norm": norm if norm is not None and math.isfinite(norm) else None,
        }
