"""Buffers (BatchNorm's running statistics, counters): they travel as values, not as gradients.

The one rule: a buffer that nobody sent keeps its value, and one that a member did not send takes no part of
that member's weight: an absent value is not a zero. No optimizer, clipping or scaling touches a buffer.

Floating buffers are few and small; they are computed in float64 and rounded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from leeway.protocol.tensors import Kind
from leeway.ps.arithmetic.runs import Run, overlay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.protocol.spans import Place
    from leeway.ps.arithmetic.aggregation.rule import Contribution
    from leeway.ps.arithmetic.bodies import Body

_MEAN, _VARIANCE = "running_mean", "running_var"


def arrive(runs: Sequence[Run], live_workers: int, body: Body) -> None:
    """Take in one worker's buffers, into a body that holds the current values.

    Floating: b += (b_k - b) / live workers. Integer: the maximum of both.
    """
    for run in runs:
        current = run.within(body)
        if run.span.kind is Kind.INTEGER_BUFFER:
            torch.maximum(current, run.values, out=current)
        else:
            # lerp gives b_k exactly for a single worker.
            current.copy_(torch.lerp(current.double(), run.values.double(), 1.0 / max(live_workers, 1)))


def aggregate(contributions: Sequence[Contribution], body: Body) -> None:
    """Aggregate the buffers of a step's contributions into a body that holds the current values.

    Floating: the sample-weighted mean over those who sent it. A `running_var` whose `running_mean` came
    from the same members is that of the joined samples, mean(var_k + mean_k ** 2) - mean(mean_k) ** 2,
    computed as mean(var_k) + mean((mean_k - mean(mean_k)) ** 2), which is the same and cannot cancel below
    zero. Integer: the maximum over those who sent it.
    """
    spreads: dict[str, tuple[tuple[int, ...], torch.Tensor]] = {}
    variances: list[tuple[Place, tuple[int, ...], torch.Tensor]] = []
    for pieces in overlay([contribution.runs for contribution in contributions]):
        run = pieces[0][1]
        members = tuple(index for index, _ in pieces)
        target = run.within(body)
        if run.span.kind is Kind.INTEGER_BUFFER:
            target.copy_(pieces[0][1].values)
            for _, piece in pieces[1:]:
                torch.maximum(target, piece.values, out=target)
            continue
        total = sum(contributions[index].samples for index in members)
        if total == 0:
            continue
        weighted = [(contributions[index].samples / total, piece.values.double()) for index, piece in pieces]
        mean = _mean(weighted)
        target.copy_(mean)
        spread = Run(run.span, run.first, run.stop, _mean([(w, (values - mean) ** 2) for w, values in weighted]))
        for (place, value), (_, spread_of) in zip(
            Run(run.span, run.first, run.stop, mean).tensors(), spread.tensors(), strict=True
        ):
            prefix, _, last = place.spec.name.rpartition(".")
            if last == _MEAN:
                spreads[prefix] = members, spread_of
            elif last == _VARIANCE:
                variances.append((place, members, value))
    for place, members, variance in variances:
        of_mean, spread_of = spreads.get(place.spec.name.rpartition(".")[0], ((), variance))
        if of_mean == members and spread_of.shape == variance.shape:
            body.tensor(place).copy_(variance + spread_of)


def _mean(weighted: Sequence[tuple[float, torch.Tensor]]) -> torch.Tensor:
    (weight, values), *others = weighted
    mean = values * weight
    for weight, values in others:
        mean.add_(values, alpha=weight)
    return mean
