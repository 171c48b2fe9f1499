"""Learning-rate schedules: how much of the configured rate a step gets.

The one rule: pure functions of the step's index. Nothing is remembered, so a restart, a replay and a live
change of settings all give the same rate for the same step.
"""

from __future__ import annotations

import math
from enum import StrEnum


class Schedule(StrEnum):
    CONSTANT = "constant"
    COSINE = "cosine"
    LINEAR = "linear"
    STEP = "step"


def warmup(step: int, warmup_steps: int) -> float:
    """Linear, (step + 1) / warmup_steps, at most 1 (Goyal et al. 2017, arXiv 1706.02677, section 2.2)."""
    return min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0


def cosine(step: int, steps: int) -> float:
    """Half a cosine from 1 at step 0 to 0 at `steps` and after (Loshchilov 2017, arXiv 1608.03983, (5))."""
    return 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))


def linear(step: int, steps: int) -> float:
    """A straight line from 1 at step 0 to 0 at `steps` and after, as torch's LinearLR(start_factor=1, end_factor=0)."""
    return 1.0 - min(step / steps, 1.0)


def staircase(step: int, every: int, gamma: float) -> float:
    """gamma ** (step // every), as torch's StepLR."""
    return float(gamma ** (step // every))
