"""Buffers (BatchNorm's running statistics, masks, counters, flags): they travel as values, not as gradients.

The one rule: a buffer that nobody sent keeps its value, and one that a member did not send takes no part of
that member's weight: an absent value is not a zero. No optimizer, clipping or scaling touches a buffer.

A buffer may hold what is not finite, and mean it: a causal mask has -inf, an observer that has seen nothing yet has
inf. So each element is looked at for itself: what is equal bit by bit stays, what is not finite is in no mean.

Floating buffers are few and small; they are computed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from leeway.protocol.tensors import Kind
from leeway.ps.arithmetic.runs import Run, overlay

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from leeway.protocol.spans import Place
    from leeway.ps.arithmetic.bodies import Body
    from leeway.ps.arithmetic.updates import Contribution

_MEAN, _VARIANCE, _COUNTER = "running_mean", "running_var", "num_batches_tracked"

# Dtypes to compare bits in: as values, NaN is not itself, and 0 is -0.
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def arrive(runs: Sequence[Run], live_workers: int, body: Body) -> None:
    """Take in one worker's buffers, into a body that holds the current values.

    Floating: b += (b_k - b) / live workers, and b_k where one of the two is not finite. `num_batches_tracked`: the
    maximum of both. Other integers and flags: b_k.
    """
    for run in runs:
        current = run.within(body)
        if run.span.kind is Kind.INTEGER_BUFFER:
            for place, value in run.tensors():
                target = body.tensor(place)
                target.copy_(torch.maximum(target, value) if _counts(place) else value)
            continue
        # lerp gives b_k exactly for a single worker.
        moved = torch.lerp(current.double(), run.values.double(), 1.0 / max(live_workers, 1)).to(current.dtype)
        finite = current.isfinite() & run.values.isfinite()
        current.copy_(torch.where(_same_bits(current, run.values) | ~finite, run.values, moved))


def aggregate(contributions: Sequence[Contribution], body: Body) -> None:
    """Aggregate the buffers of a step's contributions into a body that holds the current values.

    Floating: the sample-weighted mean over those who sent it, element by element: of the finite ones, of none finite
    the first in rank order. A `running_var` whose `running_mean` came from the same members is that of the joined
    samples, mean(var_k + mean_k ** 2) - mean(mean_k) ** 2, over those who have both finite. `num_batches_tracked`: the
    maximum over those who sent it. Other integers and flags: the first in rank order.
    """
    means: dict[str, tuple[tuple[int, ...], list[torch.Tensor]]] = {}
    variances: list[tuple[Place, tuple[int, ...], list[torch.Tensor]]] = []
    for pieces in overlay([contribution.runs for contribution in contributions]):
        run = pieces[0][1]
        if run.span.kind is Kind.INTEGER_BUFFER:
            for place, sent in _tensors([piece for _, piece in pieces]):
                target = body.tensor(place).copy_(sent[0])
                for value in sent[1:] if _counts(place) else ():
                    torch.maximum(target, value, out=target)
            continue
        # Who has no weight is in no mean, and not the first either.
        members = tuple(index for index, _ in pieces if contributions[index].samples)
        weighing = [piece for index, piece in pieces if contributions[index].samples]
        if not weighing:
            continue
        weights = _weights(contributions, members)
        run.within(body).copy_(_mean(weights, [piece.values for piece in weighing]))
        for place, sent in _tensors(weighing):
            prefix, _, last = place.spec.name.rpartition(".")
            if last == _MEAN:
                means[prefix] = members, sent
            elif last == _VARIANCE:
                variances.append((place, members, sent))
    pairs: dict[tuple[tuple[int, ...], torch.dtype], list[_Pair]] = {}
    for place, members, sent in variances:
        of_mean, sent_means = means.get(place.spec.name.rpartition(".")[0], ((), sent))
        if of_mean == members and sent_means[0].shape == sent[0].shape:
            pairs.setdefault((members, sent[0].dtype), []).append(_Pair(place, sent, sent_means))
    for (members, _), found in pairs.items():
        # All at once: a model has tens of them, of a few hundred numbers each.
        joined = _joined_variance(
            _weights(contributions, members),
            [torch.cat([pair.variances[index].flatten() for pair in found]) for index in range(len(members))],
            [torch.cat([pair.means[index].flatten() for pair in found]) for index in range(len(members))],
        )
        begin = 0
        for pair in found:
            spec = pair.place.spec
            body.tensor(pair.place).copy_(joined.narrow(0, begin, spec.elements).view(spec.shape))
            begin += spec.elements


@dataclass(frozen=True, slots=True)
class _Pair:
    """A running variance whose running mean came with it: what each member sent of both."""

    place: Place
    variances: list[torch.Tensor]
    means: list[torch.Tensor]


def _tensors(pieces: Sequence[Run]) -> Iterator[tuple[Place, list[torch.Tensor]]]:
    """Runs of the same tensors: each tensor's place, and its values in all of them."""
    for values in zip(*(piece.tensors() for piece in pieces), strict=True):
        yield values[0][0], [value for _, value in values]


def _counts(place: Place) -> bool:
    return place.spec.name.rpartition(".")[2] == _COUNTER


def _weights(contributions: Sequence[Contribution], members: Sequence[int]) -> list[float]:
    """The numbers of samples, all divided by a power of two: exact, at most 1 together, so that no sum overflows."""
    samples = [contributions[index].samples for index in members]
    scale = 2.0 ** -sum(samples).bit_length()
    return [number * scale for number in samples]


def _mean(weights: Sequence[float], values: Sequence[torch.Tensor]) -> torch.Tensor:
    """The weighted mean of the finite; of none finite the first. What is equal bit by bit stays."""
    mean, weight = _sum(weights, values, [value.isfinite() for value in values])
    first = values[0]
    return torch.where(_all_same(values) | (weight == 0), first, (mean / weight).to(first.dtype))


def _joined_variance(
    weights: Sequence[float], variances: Sequence[torch.Tensor], means: Sequence[torch.Tensor]
) -> torch.Tensor:
    """mean(var_k) + mean((mean_k - mean(mean_k)) ** 2): as the formula above, but it cannot cancel below zero."""
    finite = [variance.isfinite() & mean.isfinite() for variance, mean in zip(variances, means, strict=True)]
    within, weight = _sum(weights, variances, finite)
    mean = _sum(weights, means, finite)[0] / weight
    spread, _ = _sum(weights, [(centre - mean) ** 2 for centre in means], finite)
    # The spread of large means can be beyond half precision; that is no infinity either.
    joined = ((within + spread) / weight).clamp(max=torch.finfo(variances[0].dtype).max).to(variances[0].dtype)
    as_it_is = (weight == 0) | (_all_same(variances) & _all_same(means))
    return torch.where(as_it_is, _mean(weights, variances), joined)


def _sum(
    weights: Sequence[float], values: Sequence[torch.Tensor], chosen: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each element the weighted sum of the chosen values, and of their weights, in float64."""
    total = torch.zeros_like(values[0], dtype=torch.float64)
    weighed = torch.zeros_like(total)
    for weight, value, choice in zip(weights, values, chosen, strict=True):
        total.add_(torch.where(choice, value, 0).double(), alpha=weight)
        weighed.add_(choice, alpha=weight)
    return total, weighed


def _all_same(values: Sequence[torch.Tensor]) -> torch.Tensor:
    same = torch.ones_like(values[0], dtype=torch.bool)
    for value in values[1:]:
        same &= _same_bits(value, values[0])
    return same


def _same_bits(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    bits = _BITS[value.element_size()]
    return value.view(bits) == other.view(bits)
