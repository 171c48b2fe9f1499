"""Keeps squares of gradients within their dtype: all optimizers that adapt divide by the root of a sum of them.

The one rule: a square that is infinite stays so for ever and the parameter under it never moves again, without a NaN
that anything would notice. The usual gradient costs one pass over its memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.ps.arithmetic.runs import Run

# Adagrad adds the squares up: room for a million of the largest.
_STEPS = 2**20


def check_squares(gradient: Sequence[Run]) -> None:
    """Raises `OverflowError` with the name of the first tensor whose squares could add up to infinity.

    NaN and infinity themselves pass: whether they may be is for the guard to say.
    """
    for run in gradient:
        most = torch.finfo(run.values.dtype).max / _STEPS
        # The sum is a suspicion only: it can be too large where each of its squares is small enough.
        if torch.dot(run.values, run.values).item() <= most:
            continue
        for place, values in run.tensors():
            largest = values.abs().max().item() if values.numel() else 0.0
            if math.sqrt(most) < largest < math.inf:
                raise OverflowError(
                    f"the gradient of {place.spec.name!r} has an element of {largest:.3g}, whose square would stop that"
                    f" element for good; at most {math.sqrt(most):.2g} is taken: clip the gradients (clip_norm)"
                )
