"""Memory whose address is a multiple of 64, so that tensors are aligned in it as they are in their body."""

from __future__ import annotations

import numpy as np

from leeway.protocol.tensors import ALIGNMENT_BYTES


def allocate_aligned(nbytes: int) -> memoryview:
    """A fresh writable buffer. Its contents are undefined until filled."""
    room = np.empty(nbytes + ALIGNMENT_BYTES, np.uint8)
    start = -room.ctypes.data % ALIGNMENT_BYTES
    return room[start : start + nbytes].data
