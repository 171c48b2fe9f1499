"""In which order a stage works on its micro-batches: one file per schedule.

To add one: a file with a class that keeps the `Schedule` protocol, and its name below.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from leeway.worker.pipeline.schedules.gpipe import GPipe
from leeway.worker.pipeline.schedules.one_forward_one_backward import OneForwardOneBackward
from leeway.worker.pipeline.schedules.zb_h1 import ZbH1

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.worker.pipeline.schedules.schedule import Schedule

SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {schedule.name: schedule for schedule in (GPipe(), OneForwardOneBackward(), ZbH1())}
)


def schedule(name: str) -> Schedule:
    """The schedule of this name. Raises `ValueError`."""
    if name not in SCHEDULES:
        raise ValueError(f"there is no schedule {name!r}; choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]
