"""Large buffers of bytes, recycled instead of freed: fresh memory costs a page fault every 4 KiB.

The one rule: memory goes to its next user only when nobody refers to it any more, whatever was made of it
on the way: slices, read-only views, numpy arrays, torch tensors, a transport's queue of unsent pieces.
Nothing is given back by hand, so nothing can be given back too early.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leeway.transport.memory.aligned import allocate_aligned

# Below this the C allocator serves from its own free lists, and recycling would only add a finalizer's cost.
SMALLEST_POOLED_BYTES = 256 * 1024

# What lies idle between two uses. Room for the versions and bodies of a model of 100 MiB in full use; a
# larger model wants a larger value from the server's settings.
DEFAULT_RETAINED_BYTES = 1024 * 1024 * 1024

# A take looks through all that is retained; this bounds the look.
MAX_RETAINED_BUFFERS = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    room: memoryview

    def view(self, nbytes: int) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.room[:nbytes], np.uint8)


def _capacity(nbytes: int) -> int:
    """Round up to one of eight steps per doubling, so that bodies of nearly the same length share memory."""
    step = 1 << max(nbytes.bit_length() - 4, 0)
    return -(-nbytes // step) * step


class Pool:
    """Hands out 64-byte-aligned buffers and takes their memory back by itself. Thread-safe.

    At most `retained_bytes` lie idle; what comes back beyond that displaces what has been idle longest.
    """

    def __init__(self, retained_bytes: int = DEFAULT_RETAINED_BYTES) -> None:
        if retained_bytes < 0:
            raise ValueError(f"a pool cannot retain {retained_bytes} bytes; it must be 0 or more")
        self._limit_bytes = retained_bytes
        self._idle: deque[_Block] = deque()
        self._idle_bytes = 0
        self._lent_bytes = 0
        self._lock = threading.Lock()
        # Finalizers run wherever the last reference falls, possibly in the middle of our own locked code:
        # they only append here, which is atomic, and sort things in when the lock happens to be free.
        self._returned: deque[_Block] = deque()

    @property
    def retained_bytes(self) -> int:
        """Bytes that lie idle, waiting for a next use."""
        return self._idle_bytes

    @property
    def lent_bytes(self) -> int:
        """Bytes in use, of buffers large enough to be recycled."""
        return self._lent_bytes

    def take(self, nbytes: int) -> memoryview:
        """A writable buffer of exactly `nbytes` bytes with undefined contents.

        Its `obj` is an array made for this one use: it dies with the last reference to any part of the
        buffer, so `weakref.finalize(buffer.obj, ...)` tells when nobody uses it any more.
        """
        if nbytes < SMALLEST_POOLED_BYTES:
            return _Block(allocate_aligned(nbytes)).view(nbytes).data
        capacity_bytes = _capacity(nbytes)
        with self._lock:
            self._sort_in()
            block = self._idle_block(capacity_bytes)
            self._lent_bytes += capacity_bytes
        self._settle()
        block = block or _Block(allocate_aligned(capacity_bytes))
        view = block.view(nbytes)
        weakref.finalize(view, self._give_back, block).atexit = False
        return view.data

    def _idle_block(self, capacity_bytes: int) -> _Block | None:
        # The newest first: the likeliest to be still in the processor's cache.
        for index in range(len(self._idle) - 1, -1, -1):
            block = self._idle[index]
            if block.room.nbytes == capacity_bytes:
                del self._idle[index]
                self._idle_bytes -= capacity_bytes
                return block
        return None

    def _give_back(self, block: _Block) -> None:
        self._returned.append(block)
        self._settle()

    def _settle(self) -> None:
        # Whoever held the lock when something was returned looks again after letting go: nothing is left
        # lying.
        while self._returned and self._lock.acquire(blocking=False):
            try:
                self._sort_in()
            finally:
                self._lock.release()

    def _sort_in(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self._lent_bytes -= block.room.nbytes
            self._idle.append(block)
            self._idle_bytes += block.room.nbytes
        while self._idle_bytes > self._limit_bytes or len(self._idle) > MAX_RETAINED_BUFFERS:
            self._idle_bytes -= self._idle.popleft().room.nbytes
