"""Which tensors are the same memory: told from addresses, shapes and strides, never from what object they are.

The one rule: elements count, not storages. Two tensors in one storage have nothing in common if no element is in both
(cuDNN lays the weights of an RNN into one storage); two objects without a common ancestor are one if all elements are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Elements:
    """Where the elements of a strided tensor lie. Equal for tensors with the same elements in the same layout.

    `strides` are in elements, and 0 where a dimension has one element: they mean nothing there. `negated`: the values
    are minus those in memory (the imaginary part of a conjugate).
    """

    device: torch.device
    dtype: torch.dtype
    start_bytes: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    negated: bool = False

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Elements:
        shape = tuple(tensor.shape)
        strides = tuple(stride if size > 1 else 0 for size, stride in zip(shape, tensor.stride(), strict=True))
        return cls(tensor.device, tensor.dtype, tensor.data_ptr(), shape, strides, tensor.is_neg())

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def end_bytes(self) -> int:
        """Behind the last element. There is at least one."""
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return self.start_bytes + (last + 1) * self.dtype.itemsize

    @property
    def dense(self) -> bool:
        """Whether the elements fill the whole stretch from the first to the last; there are no repeats."""
        return self.end_bytes - self.start_bytes == self.count * self.dtype.itemsize

    @property
    def repeats(self) -> bool:
        """Whether two elements are the same memory, as in what `expand` gives."""
        reach = 0
        for stride, size in sorted(zip(self.strides, self.shape, strict=True)):
            if size > 1:
                if stride <= reach:
                    break  # dimensions that reach into one another: only counting tells
                reach += (size - 1) * stride
        else:
            return False
        with torch.inference_mode(False):
            marks = _Marks([self])
            marks.of(self).fill_(True)
            return marks.set < self.count


class _Marks:
    """A mark for each unit of a stretch of memory, the unit being what all the tensors in it are made of."""

    def __init__(self, tensors: Sequence[Elements]) -> None:
        self._start_bytes = min(tensor.start_bytes for tensor in tensors)
        end_bytes = max(tensor.end_bytes for tensor in tensors)
        sizes = [n for tensor in tensors for n in (tensor.dtype.itemsize, tensor.start_bytes - self._start_bytes)]
        self._unit_bytes = reduce(math.gcd, sizes)
        self._units = (end_bytes - self._start_bytes) // self._unit_bytes
        self._marks = torch.zeros(self._units, dtype=torch.bool, device="cpu")
        self._width = min(tensor.dtype.itemsize for tensor in tensors) // self._unit_bytes

    @property
    def set(self) -> int:
        """How many elements of the smallest item size are marked."""
        return int(self._marks.sum().item()) // self._width

    def of(self, tensor: Elements) -> torch.Tensor:
        """The marks of its elements, as a view."""
        width = tensor.dtype.itemsize // self._unit_bytes
        offset = (tensor.start_bytes - self._start_bytes) // self._unit_bytes
        strides = [stride * width for stride in tensor.strides]
        return self._marks.as_strided([*tensor.shape, width], [*strides, 1], offset)


def overlap(tensors: Mapping[str, Elements]) -> tuple[str, str] | None:
    """Two that have an element in common, or a part of one; None if there are none. All differ, and none repeats.

    Exact. Costs a sort; where stretches with gaps reach into one another, a byte for each element in between.
    """
    for cluster in _clusters({name: elements for name, elements in tensors.items() if elements.count}):
        if pair := _overlap_within(cluster):
            return pair
    return None


def _clusters(tensors: Mapping[str, Elements]) -> Iterator[list[tuple[str, Elements]]]:
    """Those of more than one tensor whose stretches, from first to last element, reach into one another."""
    cluster: list[tuple[str, Elements]] = []
    device, end_bytes = None, 0
    for name, elements in sorted(tensors.items(), key=lambda item: (str(item[1].device), item[1].start_bytes)):
        if elements.device != device or elements.start_bytes >= end_bytes:
            if len(cluster) > 1:
                yield cluster
            cluster, device, end_bytes = [], elements.device, 0
        cluster.append((name, elements))
        end_bytes = max(end_bytes, elements.end_bytes)
    if len(cluster) > 1:
        yield cluster


def _overlap_within(cluster: Sequence[tuple[str, Elements]]) -> tuple[str, str] | None:
    if all(elements.dense for _, elements in cluster):
        # The first two reach into one another, and both fill what they reach over.
        return cluster[0][0], cluster[1][0]
    with torch.inference_mode(False):
        marks = _Marks([elements for _, elements in cluster])
        for index, (name, elements) in enumerate(cluster):
            mine = marks.of(elements)
            if mine.any():
                others = cluster[:index]
                return next(other for other, theirs in others if _have_common(theirs, elements)), name
            mine.fill_(True)
    return None


def _have_common(first: Elements, second: Elements) -> bool:
    marks = _Marks([first, second])
    marks.of(first).fill_(True)
    return bool(marks.of(second).any())
