"""What a result was measured on: processor, cores, memory, load, versions.

The one rule: nothing here names the machine or a place on it.
"""

from __future__ import annotations

import os
import platform
import resource
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "numpy", "aiohttp", "uvloop", "msgpack")


def describe() -> dict[str, Any]:
    """The machine as plain data."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_gib": _memory_gib(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


class Others:
    """What everybody else makes the machine do meanwhile: on a shared one, the first thing to know of a result."""

    def __init__(self) -> None:
        self._before = _busy_and_all_seconds(), _our_seconds()

    def share(self, our_processes_seconds: float = 0.0) -> float | None:
        """The share of all cores, 0 to 1, that others have used since this was made; None where nobody tells.

        `our_processes_seconds`: processor time of processes that are ours and not this one's children.
        """
        (busy, everything), ours = self._before
        busy_now, everything_now = _busy_and_all_seconds()
        if everything_now == everything:
            return None
        others = busy_now - busy - (_our_seconds() - ours) - our_processes_seconds
        return round(max(0.0, others) / (everything_now - everything), 3)


def _busy_and_all_seconds() -> tuple[float, float]:
    """Seconds of all cores since the machine started: busy, and idle ones too. Zeros where there is no /proc."""
    fields = [int(field) for field in next(iter(_lines(Path("/proc/stat"))), "cpu 0 0 0 0 0").split()[1:9]]
    ticks = os.sysconf("SC_CLK_TCK")
    return (sum(fields) - sum(fields[3:5])) / ticks, sum(fields) / ticks


def _our_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _processor() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / 2**20, 1)
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
