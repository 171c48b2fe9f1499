"""A body of bytes, seen as torch tensors.

The one rule: views only. Nothing here copies a tensor out, so what is computed on a view is computed in the
body.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from leeway.protocol.tensors import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.spans import Place

TORCH_DTYPES: Mapping[str, torch.dtype] = MappingProxyType({name: getattr(torch, name) for name in DTYPES})


class Body:
    """Typed views of one body, laid out as a `Layout` or a `Frame` says.

    `memory` is writable, as the pool's and the decoder's is; the views keep it alive.
    """

    __slots__ = ("_bytes", "_whole")

    def __init__(self, memory: memoryview) -> None:
        # torch.frombuffer knows neither empty nor read-only buffers.
        if memory.nbytes == 0:
            self._bytes = torch.empty(0, dtype=torch.uint8)
        else:
            assert not memory.readonly, "torch computes in writable memory only"
            self._bytes = torch.frombuffer(memory, dtype=torch.uint8)
        self._whole: dict[str, torch.Tensor] = {}

    @property
    def nbytes(self) -> int:
        return self._bytes.numel()

    def flat(self, dtype: str, start_bytes: int, nbytes: int) -> torch.Tensor:
        """Some bytes as a flat array of a dtype. Both numbers are multiples of its item size."""
        whole = self._whole.get(dtype)
        if whole is None:
            whole = self._whole[dtype] = self._bytes.view(TORCH_DTYPES[dtype])
        itemsize = DTYPES[dtype].itemsize
        return whole.narrow(0, start_bytes // itemsize, nbytes // itemsize)

    def tensor(self, place: Place) -> torch.Tensor:
        """A tensor in its shape, without its padding."""
        spec = place.spec
        return self.flat(spec.dtype, place.offset_bytes, spec.nbytes).view(spec.shape)

    def clear(self) -> None:
        """Make it all zero, the padding too."""
        self._bytes.zero_()

    def copy(self, other: Body, start_bytes: int, nbytes: int) -> None:
        """Take over a stretch of another body of the same layout."""
        self._bytes.narrow(0, start_bytes, nbytes).copy_(other._bytes.narrow(0, start_bytes, nbytes))
