from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

from protocol.allocator import keep_freed_memory

# Page faults of receiving a hundred times what a body comes in: sixteen chunks of 256 KiB, written to, then let go.
PROGRAM = """
import resource
from protocol.allocator import keep_freed_memory
if {keep}:
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    chunks = [bytes([1]) * (256 * 1024) for _ in range(16)]
    del chunks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
def test_memory_is_kept():
    assert faults(keep=True) < faults(keep=False) / 10


def test_it_costs_next_to_nothing():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    keep_freed_memory()
    # 31 MiB have 7,936 pages; none of them is touched.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100
