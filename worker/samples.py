"""How many samples went into the update under way.

The one rule: what is counted once is pushed once by each part of what is trained: a push takes the count, whoever has
counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Samples:
    """Counts what a loop reads between two pushes."""

    def __init__(self) -> None:
        self._read = 0
        self._by_batch = False
        # How far each part of what is trained has pushed.
        self._taken: dict[str, int] = {}
        # What each took with its last push that had any.
        self._before: dict[str, int] = {}

    def read(self, batch: Any) -> None:
        """A batch was read. From now on batches are what is counted, not what a sampler draws ahead of them."""
        if not self._by_batch:
            self._by_batch, self._taken = True, {}
            self._read = 0
        self._read += of_batch(batch) or 1

    def drew(self) -> None:
        """A sampler has drawn one."""
        if not self._by_batch:
            self._read += 1

    @property
    def count(self) -> int:
        """Since the newest push of all."""
        return self._read - max(self._taken.values(), default=0)

    def of(self, part: str) -> int:
        """Since the last push of this part."""
        return self._read - self._taken.get(part, 0)

    def taken(self, part: str) -> None:
        """They have gone out with an update of this part, or are lost with it."""
        self._before[part] = self.of(part) or self._before.get(part, 0)
        self._taken[part] = self._read

    def before(self, part: str) -> int:
        """The last count that this part took: another optimizer's step on the same batch weighs as much."""
        return self._before.get(part, 0)


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
