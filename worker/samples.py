"""How many samples went into the update under way.

The one rule: what is counted once is pushed once by each part of what is trained: a push takes the count, whoever has
counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leeway.protocol.fields import MAX_INTEGER
from leeway.worker import arguments


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
    its parts. None when there is none to be found; a shape that begins with no number of rows says nothing."""
    # Whatever has parts is looked at once, for it may have itself among them; kept, so that no other gets its id.
    left, seen = [batch], dict[int, Any]()
    while left:
        part = left.pop()
        shape = _shape(part)
        if shape is not None:
            if (rows := _rows(shape)) is not None:
                return rows
        elif id(part) not in seen and (parts := _parts(part)):
            seen[id(part)] = part
            left += reversed(parts)
    return None


def _shape(part: Any) -> Sequence[Any] | None:
    try:
        shape = part.shape
    except Exception:  # torch's nested tensors have one that raises
        return None
    return shape if isinstance(shape, Sequence) else None


def _rows(shape: Sequence[Any]) -> int | None:
    try:
        return arguments.integer("rows", shape[0], 0, MAX_INTEGER) if len(shape) else None
    except ValueError:
        return None


def _parts(part: Any) -> list[Any]:
    if isinstance(part, Mapping):
        return list(part.values())
    if isinstance(part, (list, tuple)):
        return list(part)
    return list(vars(part).values()) if hasattr(part, "__dict__") else []
