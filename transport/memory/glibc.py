"""How the process's memory allocator treats what bodies are received in.

The one rule: an optimization only. Where the allocator is not glibc's, nothing happens and nothing is lost.
"""

from __future__ import annotations

# The largest value that glibc's mmap threshold grows to by itself is 32 MiB (M_MMAP_THRESHOLD in mallopt(3)).
_JUST_BELOW_THE_MAXIMUM_BYTES = 31 * 1024 * 1024


def keep_freed_memory() -> None:
    """Let glibc keep freed chunks of up to 31 MiB instead of giving them back to the kernel at once.

    A received body comes in chunks of some 256 KiB, which lie above the threshold at first: each would be mapped,
    faulted in page by page, and unmapped. Freeing a larger chunk once moves the threshold up, and the amount of free
    memory that is kept to twice as much (mallopt(3), *dynamic mmap threshold*). Measured with 100 MiB over loopback:
    a quarter less processor time on the side that receives.
    """
    bytes(_JUST_BELOW_THE_MAXIMUM_BYTES)
