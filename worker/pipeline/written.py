"""The buffers that a forward pass writes (BatchNorm's statistics): as they were before it.

The one rule: computing a forward pass again sees what the first one saw, and leaves no trace.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from leeway.worker.pipeline.keeping import bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(slots=True)
class _Place:
    module: torch.nn.Module
    name: str

    @property
    def buffer(self) -> torch.Tensor:
        buffer = self.module._buffers[self.name]
        assert buffer is not None, self.name
        return buffer


class Written:
    """The buffers that were written within `watching`, with their values before it."""

    def __init__(self, before: Sequence[tuple[_Place, torch.Tensor]]) -> None:
        self._before = before

    @classmethod
    @contextmanager
    def watching(cls, modules: Iterable[torch.nn.Module]) -> Iterator[Written]:
        """Complete behind it. For a moment all buffers are there twice."""
        written = cls([])
        places = [place for module in modules for place in _places(module)]
        seen = [(place, place.buffer.clone()) for place in places]
        yield written
        # By their values: what batch_norm writes counts no version.
        written._before = [(place, values) for place, values in seen if not torch.equal(place.buffer, values)]

    @property
    def nbytes(self) -> int:
        return bytes_of(values for _, values in self._before)

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """The buffers are other objects within, and the same as now behind it."""
        now = [(place, place.buffer) for place, _ in self._before]
        for place, values in self._before:
            place.module._buffers[place.name] = values
        try:
            yield
        finally:
            for place, buffer in now:
                place.module._buffers[place.name] = buffer


def _places(module: torch.nn.Module) -> Iterator[_Place]:
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                yield _Place(part, name)
