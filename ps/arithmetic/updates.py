"""The updates of one step, and what can be computed from all of them together, without a copy of each.

The one rule: contributions are read, run by run and block by block, and never written to. What a stage makes of one (a
factor, the difference to what was pulled) is remembered and taken into account as it is read. Results lie in the
step's scratch.

Whoever does not send a tensor that another one sends counts as sending a zero. Half precision is computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch

from leeway.ps.arithmetic.bodies import TORCH_DTYPES, Body
from leeway.ps.arithmetic.runs import Run, overlay
from leeway.ps.arithmetic.values import MASTER_DTYPE, Values, has_master

if TYPE_CHECKING:
    from collections.abc import Iterator

# Gives values in the group's layout to write results into (see `flat`), the same each time within a step.
Scratch: TypeAlias = Callable[[], Values]

# What is computed at once stays in the processor's cache. A multiple of what a vector instruction takes.
BLOCK_ELEMENTS = 65_536
_SMALLEST_BLOCK_ELEMENTS = 4_096


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """One update of a step: its weight, what it sent of the tensors in question, and whose it is.

    `pulled`: what it sent are whole values, and what counts is what was pulled, this body, minus them. `factor`: what
    all of it is to be multiplied with.
    """

    samples: int
    runs: Sequence[Run]
    rank: str = ""
    pulled: Body | None = None
    factor: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Updates:
    """In natural order of the ranks; behind the aggregation rule there is one, the gradient.

    `norm`: the gradient's Euclidean norm before it was clipped, where a stage has measured it.
    """

    contributions: Sequence[Contribution]
    scratch: Scratch
    norm: float | None = None

    @property
    def samples(self) -> list[int]:
        return [contribution.samples for contribution in self.contributions]

    @property
    def gradient(self) -> list[Run]:
        """Behind the rule: for each tensor that anybody sent its value, in the order of the layout, without overlap."""
        (contribution,) = self.contributions
        assert (contribution.pulled, contribution.factor) == (None, 1.0), "a gradient is computed"
        return list(contribution.runs)

    def with_gradient(self, gradient: Sequence[Run], norm: float | None = None) -> Updates:
        return Updates([Contribution(sum(self.samples), gradient)], self.scratch, norm)

    def scaled(self, factors: Sequence[float]) -> Updates:
        """Each update times its factor."""
        pairs = zip(self.contributions, factors, strict=True)
        scaled = [replace(contribution, factor=contribution.factor * factor) for contribution, factor in pairs]
        return replace(self, contributions=scaled)

    def total(self, weights: Sequence[float]) -> Updates:
        """The sum of all updates, each times its weight. One without weight is not read.

        A single update as it is lies where it was sent.
        """
        weights = [
            weight * contribution.factor for weight, contribution in zip(weights, self.contributions, strict=True)
        ]
        if len(weights) == 1 and weights[0] == 1.0 and self.contributions[0].pulled is None:
            return self.with_gradient([self._widened(run) for run in self.contributions[0].runs])
        gradient = []
        for pieces in self._overlay():
            run = pieces[0][1]
            target = self.scratch().flat(run)
            weighing = [(index, piece) for index, piece in pieces if weights[index]]
            if not weighing:
                target.zero_()
            elif has_master(run.span) or any(self.contributions[i].pulled is not None for i, _ in weighing):
                for start, stop in _blocks(target.numel(), BLOCK_ELEMENTS):
                    block = [(weights[i], self._read(i, piece, start, stop)) for i, piece in weighing]
                    _add_up(block, target[start:stop])
            else:
                _add_up([(weights[index], piece.values) for index, piece in weighing], target)
            gradient.append(Run(run.span, run.first, run.stop, target))
        return self.with_gradient(gradient)

    def columns(self, reduce: Callable[[list[torch.Tensor]], torch.Tensor]) -> Updates:
        """Of each coordinate what `reduce` makes of it: it gets a block of every update, those without as zeros.

        It may write to what it gets.
        """
        count = len(self.contributions)
        gradient = []
        for pieces in self._overlay():
            run = pieces[0][1]
            target = self.scratch().flat(run)
            for start, stop in _blocks(target.numel(), _block_of(count)):
                rows = list(target.new_zeros((count, stop - start)).unbind())
                for index, piece in pieces:
                    self._read_into(rows[index], index, piece, start, stop)
                target[start:stop].copy_(reduce(rows))
            gradient.append(Run(run.span, run.first, run.stop, target))
        return self.with_gradient(gradient)

    def distances(self) -> torch.Tensor:
        """The squared Euclidean distance of any two updates, over all tensors; infinite where one is not finite.

        Computed from differences in float64, and not from products: an update that is far away from all others must
        not drown the distances between those.
        """
        count = len(self.contributions)
        squares = torch.zeros((count, count), dtype=torch.float64)
        for block in self._wide_blocks():
            for index in range(count):
                apart = block[index:] - block[index]
                squares[index, index:] += apart.square_().sum(dim=1)
        return (squares + squares.triu(1).T).nan_to_num(math.inf)

    def products(self, centre: int) -> torch.Tensor:
        """The scalar product of any two updates as they are seen from one of them, over all tensors, in float64."""
        count = len(self.contributions)
        products = torch.zeros((count, count), dtype=torch.float64)
        for block in self._wide_blocks():
            block -= block[centre].clone()
            products.addmm_(block, block.T)
        return products

    def _wide_blocks(self) -> Iterator[torch.Tensor]:
        """A row for each update."""
        count = len(self.contributions)
        for pieces in self._overlay():
            for start, stop in _blocks(pieces[0][1].values.numel(), _block_of(count)):
                block = torch.zeros((count, stop - start), dtype=torch.float64)
                for index, piece in pieces:
                    self._read_into(block[index], index, piece, start, stop)
                yield block

    def _overlay(self) -> Iterator[list[tuple[int, Run]]]:
        return overlay([contribution.runs for contribution in self.contributions])

    def _widened(self, run: Run) -> Run:
        """As wide as what it changes: norms, factors and steps are computed in float32 for half precision."""
        if not has_master(run.span):
            return run
        return Run(run.span, run.first, run.stop, self.scratch().flat(run).copy_(run.values))

    def _read(self, index: int, piece: Run, start: int, stop: int) -> torch.Tensor:
        """A block of what an update comes to, but for its factor."""
        dtype = TORCH_DTYPES[MASTER_DTYPE] if has_master(piece.span) else piece.values.dtype
        values = piece.values[start:stop].to(dtype)
        pulled = self.contributions[index].pulled
        return values if pulled is None else piece.within(pulled)[start:stop].to(dtype).sub(values)

    def _read_into(self, row: torch.Tensor, index: int, piece: Run, start: int, stop: int) -> None:
        row.copy_(self._read(index, piece, start, stop))
        if self.contributions[index].factor != 1.0:
            row.mul_(self.contributions[index].factor)


def _add_up(weighted: Sequence[tuple[float, torch.Tensor]], target: torch.Tensor) -> None:
    (weight, values), *others = weighted
    torch.mul(values, weight, out=target)
    for weight, values in others:
        target.add_(values, alpha=weight)


def _block_of(count: int) -> int:
    return max(_SMALLEST_BLOCK_ELEMENTS, 4 * BLOCK_ELEMENTS // count)


def _blocks(elements: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, elements, size):
        yield start, min(start + size, elements)
