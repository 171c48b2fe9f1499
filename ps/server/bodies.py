"""The tensors that came with requests, until the machine says what becomes of them.

The one rule: a body has the number of its request, and is here once: whoever takes it has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from leeway.protocol.frames import Frame


class Bodies:
    """`held`: those of held contributions that were resumed from."""

    def __init__(self, held: Mapping[int, Frame]) -> None:
        self._frames = dict(held)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, number: int) -> Frame:
        return self._frames[number]

    @property
    def highest(self) -> int:
        """The highest number there is; 0 where there is none."""
        return max(self._frames, default=0)

    def keep(self, number: int, frame: Frame) -> None:
        self._frames[number] = frame

    def take(self, numbers: Iterable[int]) -> tuple[Frame, ...]:
        return tuple(self._frames.pop(number) for number in numbers)

    def drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._frames.pop(number, None)
