"""How many samples went into the update under way.

The one rule: what is counted once is pushed once: a push takes the count, whoever has counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Samples:
    """Counts what a loop reads between two pushes."""

    def __init__(self) -> None:
        self._count = 0
        self._by_batch = False
        self.before = 0
        """The last count that was taken: another optimizer's step on the same batch weighs as much."""

    def read(self, batch: Any) -> None:
        """A batch was read. From now on batches are what is counted, not what a sampler draws ahead of them."""
        if not self._by_batch:
            self._by_batch, self._count = True, 0
        self._count += of_batch(batch) or 1

    def drew(self) -> None:
        """A sampler has drawn one."""
        if not self._by_batch:
            self._count += 1

    @property
    def count(self) -> int:
        return self._count

    def taken(self) -> None:
        """They have gone out with an update, or are lost with it."""
        self.before, self._count = self._count or self.before, 0


def of_batch(batch: Any) -> int | None:
    """The samples in what a loader has given: the first dimension of the first tensor or array in it, in the order of
    its parts. None when there is none to be found."""
    shape = getattr(batch, "shape", None)
    if isinstance(shape, Sequence):
        return int(shape[0]) if len(shape) else None
    if isinstance(batch, Mapping):
        parts: list[Any] = list(batch.values())
    elif isinstance(batch, (list, tuple)):
        parts = list(batch)
    else:
        parts = list(vars(batch).values()) if hasattr(batch, "__dict__") else []
    return next((count for part in parts if (count := of_batch(part)) is not None), None)
