from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from leeway.transport.memory.glibc import keep_freed_memory

# Page faults of the call itself, and of receiving a hundred times what a body comes in: sixteen chunks of 256 KiB,
# written to, then let go. In a process of its own: what a heap looks like after other tests is no matter here.
PROGRAM = """
import resource
from leeway.transport.memory.glibc import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = faults()
if {keep}:
    keep_freed_memory()
called = faults()
for _ in range(100):
    chunks = [bytes([1]) * (256 * 1024) for _ in range(16)]
    del chunks
print(called - before, faults() - called)
"""


def faults(keep: bool) -> tuple[int, int]:
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    call, receiving = subprocess.run(command, check=True, capture_output=True).stdout.split()
    return int(call), int(receiving)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
def test_memory_is_kept():
    assert faults(keep=True)[1] < faults(keep=False)[1] / 10


def test_it_costs_next_to_nothing():
    # 31 MiB have 7,936 pages; none of them is touched.
    assert faults(keep=True)[0] < 100


def test_it_can_be_called_at_any_time():
    keep_freed_memory()
    keep_freed_memory()
