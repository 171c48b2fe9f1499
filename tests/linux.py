"""What the kernel does and tells for the programs that tests start: their end, their processor time, their network.

The one rule: it may be called between a fork and an exec, so nothing is loaded then that was not loaded before.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_LIBC = ctypes.CDLL(None, use_errno=True)


def end_with_parent() -> None:
    """From now on the kernel kills this process when its parent dies. Elsewhere than on Linux nothing does."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far, all threads; 0 when it is gone or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def enter_network(descriptor: int, name: str) -> None:
    """Move this thread into a network namespace, open under this descriptor. Raises `OSError`, with the name in it."""
    if _LIBC.setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {name}")
