"""The sample-weighted mean, g = sum over k of (n_k / n) g_k with n = sum of n_k (FedSGD and FedAvg: McMahan
et al. 2017, arXiv 1602.05629, algorithm 1), over the contributions of the step.

The one rule: a tensor that a member did not send counts as a zero with its update's weight (so does an unused
parameter's missing gradient under a plain loop over the joined batch); one that nobody sent stays absent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from leeway.ps.arithmetic.runs import Run, overlay
from leeway.ps.arithmetic.values import has_master

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.ps.arithmetic.aggregation.rule import Contribution, Scratch

# Half precision is summed in float32, in blocks that stay in the processor's cache.
BLOCK_ELEMENTS = 65_536


def weighted_mean(contributions: Sequence[Contribution], scratch: Scratch) -> list[Run]:
    """See `Aggregation`. At least one contribution has samples."""
    total = sum(contribution.samples for contribution in contributions)
    assert total > 0, "a step needs samples"
    if len(contributions) == 1:
        return list(contributions[0].runs)
    weights = [contribution.samples / total for contribution in contributions]
    mean = []
    for pieces in overlay([contribution.runs for contribution in contributions]):
        run = pieces[0][1]
        target = scratch().flat(run)
        weighted = [(weights[index], piece.values) for index, piece in pieces]
        if has_master(run.span):
            _sum_halves(weighted, target)
        else:
            _sum(weighted, target)
        mean.append(Run(run.span, run.first, run.stop, target))
    return mean


def _sum(weighted: Sequence[tuple[float, torch.Tensor]], target: torch.Tensor) -> None:
    (weight, values), *others = weighted
    torch.mul(values, weight, out=target)
    for weight, values in others:
        target.add_(values, alpha=weight)


def _sum_halves(weighted: Sequence[tuple[float, torch.Tensor]], target: torch.Tensor) -> None:
    for start in range(0, target.numel(), BLOCK_ELEMENTS):
        stop = start + BLOCK_ELEMENTS
        block = target[start:stop].zero_()
        for weight, values in weighted:
            block.add_(values[start:stop].float(), alpha=weight)
