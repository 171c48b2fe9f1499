"""Clipping by the norm of the whole gradient (Pascanu et al. 2013, arXiv 1211.5063), once per step.

The one rule: the same numbers as `torch.nn.utils.clip_grad_norm_` gives for the same tensors in the same
order, bit by bit, without writing to anybody's update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from leeway.ps.arithmetic.runs import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.ps.arithmetic.updates import Scratch


def norm(gradient: Sequence[Run]) -> float:
    """The Euclidean norm of the whole gradient, as `clip` measures it."""
    return _norm(gradient).item()


def clip(gradient: Sequence[Run], max_norm: float, scratch: Scratch) -> tuple[list[Run], float]:
    """The gradient times min(1, max_norm / (norm + 1e-6)), and its Euclidean norm before.

    The gradient itself comes back when it is short enough.
    """
    total = _norm(gradient)
    factor = max_norm / (total + 1e-6)
    if factor >= 1.0:
        return list(gradient), total.item()
    return scale(gradient, factor, scratch), total.item()


def scale(gradient: Sequence[Run], factor: float | torch.Tensor, scratch: Scratch) -> list[Run]:
    """The gradient times a factor, in the scratch; it may already lie there."""
    scaled = []
    for run in gradient:
        target = scratch().flat(run)
        torch.mul(run.values, factor, out=target)
        scaled.append(Run(run.span, run.first, run.stop, target))
    return scaled


def _norm(gradient: Sequence[Run]) -> torch.Tensor:
    tensors = [values for run in gradient for _, values in run.tensors()]
    total = torch.nn.utils.get_total_norm(tensors)
    if total.isfinite():
        return total
    # The squares of finite float32 values above 1e19 overflow; clipped by an infinite norm, the step would be zero.
    return torch.nn.utils.get_total_norm([values.double() for values in tensors])
