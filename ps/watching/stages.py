"""Where the time of an iteration goes in the stages of each replica, and which stage holds the others.

The one rule: it is of a life, and what its stages have told with their pushes: of the iteration before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.protocol.times import StepTimes

# In a good cut all wait about as long as each other. One that waits for less than this share of what the others do, on
# average, is waited for.
_HOLDS_BELOW = 0.5

# Of its lease a stage has two thirds left at least when its heartbeats come.
_SILENT_BELOW = 0.5


class StageTimes:
    def __init__(self) -> None:
        self._told: dict[str, dict[int, StepTimes]] = {}

    def tell(self, rank: str, stage: int, times: StepTimes) -> None:
        """A stage of a live replica has told of its last iteration."""
        self._told.setdefault(rank, {})[stage] = times

    def forget(self, rank: str) -> None:
        """The life has ended."""
        self._told.pop(rank, None)

    def of(self, rank: str, stage: int) -> dict[str, Any]:
        """Seconds of the newest iteration that it has told of, JSON-ready; null before the first."""
        times = self._told.get(rank, {}).get(stage)
        return {
            "computed_seconds": round(times.compute_seconds, 6) if times else None,
            "waited_seconds": round(times.bubble_seconds, 6) if times else None,
        }

    def holding(self, rank: str, stages: int, left: Sequence[float], lease_seconds: float) -> int | None:
        """The stage for which the others wait: one that says nothing any more, else that which waited least itself.
        None where none stands out, or not all of the `stages` have told yet. `left`: of the lease of each, in seconds.
        """
        silent = min(range(stages), key=left.__getitem__)
        if left[silent] < _SILENT_BELOW * lease_seconds:
            return silent
        waited = {stage: times.bubble_seconds for stage, times in self._told.get(rank, {}).items()}
        if stages < 2 or len(waited) < stages:
            return None
        least = min(waited, key=waited.__getitem__)
        others = sum(seconds for stage, seconds in waited.items() if stage != least) / (stages - 1)
        return least if waited[least] < _HOLDS_BELOW * others else None
