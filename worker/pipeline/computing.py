"""A stage computes: forward and backward of one micro-batch, without links.

The one rule: weights are never touched. Gradients are summed in `.grad`, each micro-batch weighted by its share of the
samples, so that after an iteration they are those of the mean over the batch.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from leeway.worker.pipeline.borders import Exit, check, enter, joined, named, sent
from leeway.worker.pipeline.keeping import Keeping, bytes_of
from leeway.worker.pipeline.late_weights import LateWeights
from leeway.worker.pipeline.randomness import forward_seed, seeded
from leeway.worker.pipeline.written import Written

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from contextlib import AbstractContextManager

    from leeway.worker.pipeline.borders import Activations
    from leeway.worker.pipeline.stage import Stage

    Loss = Callable[[Activations, Activations], torch.Tensor]

_NO_ERRORS: Mapping[str, torch.Tensor] = {}


@dataclass(slots=True)
class _Kept:
    """What the backward pass of a micro-batch needs."""

    weight: float
    nbytes: int
    # The graph. `end`: the loss on the last stage, else where errors come in; None if it is made again.
    leaves: Mapping[str, torch.Tensor] = field(default_factory=dict)
    end: Exit | torch.Tensor | None = None
    # What it is made of again.
    received: Activations | None = None
    targets: Activations | None = None
    written: Written | None = None
    # What is left to do behind the backward pass, where it is split.
    late: LateWeights | None = None


class Computing:
    """Computes for one stage.

    `seed` and `rank` decide, with layer, iteration and micro-batch, what is random in a forward pass. `loss`, on the
    last stage: the mean over the samples of a micro-batch, a scalar, of the last layer's output and the targets.
    `recompute`: keep what a stage received alone, and compute the rest again for the backward pass.

    `held`: of how many micro-batches activations are kept now, `held_bytes` their memory; `most_held` and
    `most_held_bytes`: at most, since `begin`.
    """

    def __init__(
        self, stage: Stage, *, seed: int, rank: str | int, loss: Loss | None = None, recompute: bool = False
    ) -> None:
        self.stage = stage
        self._seed, self._rank = seed, rank
        self._loss = loss
        self._recompute = recompute
        self._kept: dict[int, _Kept] = {}
        self._sizes: dict[Hashable, int] = {}
        self.begin(0)

    def begin(self, iteration: int, *, splits: bool = False) -> None:
        """Forget the activations that an iteration that was dropped has left.

        `splits`: a backward pass is two calls, `backward` and `weights`, and activations are kept up to the second.
        """
        self._iteration, self._splits = iteration, splits
        self._device = next((p.device for p in self.stage.module.parameters()), torch.device("cpu"))
        self._kept.clear()
        self.losses: list[torch.Tensor] = []
        self.most_held = self.most_held_bytes = 0

    @property
    def held(self) -> int:
        return len(self._kept)

    @property
    def held_bytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept.values())

    def forward(
        self, micro_batch: int, received: Activations, weight: float, targets: Activations | None = None
    ) -> Activations | None:
        """The stage's output for what it received; on the last stage None, and the loss is in `losses`.

        `weight`: the samples of this micro-batch over those of the batch.
        """
        received = self._here(received)
        targets = None if targets is None else self._here(targets)
        kept = _Kept(weight, 0)
        if self._recompute:
            with Written.watching(layer.module for layer in self.stage.layers) as written, torch.no_grad():
                # A copy: the first layer may write into what it is given.
                result = self._result(micro_batch, _cloned(received), targets)
            kept.received, kept.targets, kept.written = received, targets, written
            kept.nbytes = bytes_of(named(received).values()) + written.nbytes
        else:
            result = self._graph(kept, micro_batch, received, targets)
            kept.nbytes = self._graph_bytes(received)
        self._kept[micro_batch] = kept
        self._count()
        if self.stage.last:
            assert isinstance(result, torch.Tensor)
            self.losses.append(result.detach())
            return None
        return sent(result)

    def backward(self, micro_batch: int, errors: Mapping[str, torch.Tensor] = _NO_ERRORS) -> Mapping[str, torch.Tensor]:
        """The errors of what the stage received, by name, from those of what it gave; what has none is left out."""
        kept = self._kept[micro_batch]
        if kept.end is None and kept.received is not None and kept.written is not None:
            with kept.written.as_before():
                self._graph(kept, micro_batch, kept.received, kept.targets)
            kept.nbytes = self._graph_bytes(kept.received) + kept.written.nbytes
            self._count()
        if isinstance(kept.end, Exit):
            kept.end.backward({name: error.to(self._device) for name, error in errors.items()})
        elif kept.end is not None:
            if not kept.end.requires_grad:
                raise ValueError("the loss depends on no parameter; it was detached, or computed without gradients")
            torch.autograd.backward(kept.end, kept.end.new_tensor(kept.weight))
        if kept.late is None:
            del self._kept[micro_batch]
        return {name: leaf.grad for name, leaf in kept.leaves.items() if leaf.grad is not None}

    def weights(self, micro_batch: int) -> None:
        """The second half of the backward pass, where it is split."""
        late = self._kept.pop(micro_batch).late
        assert late is not None, micro_batch
        late.compute()

    def look(self, micro_batch: int, received: Activations, targets: Activations | None = None) -> Activations:
        """The output by forward alone: nothing is kept. `losses` has the loss where there are targets."""
        with torch.no_grad():
            output = self._output(micro_batch, _cloned(self._here(received)))
            if self.stage.last and targets is not None:
                self.losses.append(self._judged(micro_batch, output, self._here(targets)))
        return sent(output)

    def _graph(self, kept: _Kept, micro_batch: int, received: Activations, targets: Activations | None) -> Activations:
        """Compute with a graph, and keep its ends."""
        # A copy: the batch is the script's. And sums depend on how a piece is aligned, which is the batch's chance.
        leaves, value = ({}, _cloned(received)) if self.stage.first else enter(received)
        size = self._size_of(received)
        keeping = Keeping(layer.module for layer in self.stage.layers) if size not in self._sizes else None
        kept.late = LateWeights() if self._splits else None
        with keeping or nullcontext(), kept.late or nullcontext(), torch.enable_grad():
            result = self._result(micro_batch, value, targets)
            if self.stage.last:
                assert isinstance(result, torch.Tensor)
                kept.end = result
            else:
                kept.end = Exit.of(result)
        if keeping is not None:
            for leaf in leaves.values():
                keeping.add(leaf)
            self._sizes[size] = keeping.nbytes
        kept.leaves = leaves
        return result

    def _result(self, micro_batch: int, value: Activations, targets: Activations | None) -> Activations:
        """The loss on the last stage, else the output."""
        output = self._output(micro_batch, value)
        return self._judged(micro_batch, output, targets) if self.stage.last else output

    def _output(self, micro_batch: int, value: Activations) -> Activations:
        for layer in self.stage.layers:
            with self._random(layer.index, micro_batch):
                value = layer.module(value)
        return value if self.stage.last else check(layer.name, value)

    def _judged(self, micro_batch: int, output: Activations, targets: Activations | None) -> torch.Tensor:
        if self._loss is None or targets is None:
            missing = "a loss" if self._loss is None else "targets"
            raise ValueError(f"the last stage needs {missing}; give it {missing}, the other stages do without")
        # What is random in it is that of a layer behind the last.
        with self._random(self.stage.layers[-1].index + 1, micro_batch):
            loss = self._loss(output, targets)
        if not isinstance(loss, torch.Tensor) or loss.dim():
            shape = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise ValueError(f"the loss is {shape}; it must be a scalar, the mean over the samples of a micro-batch")
        if not loss.is_floating_point():
            kind = str(loss.dtype).removeprefix("torch.")
            raise ValueError(
                f"the loss is {kind}; it must be a real number, the mean over the samples of a micro-batch"
            )
        return loss

    def _random(self, layer: int, micro_batch: int) -> AbstractContextManager[None]:
        return seeded(forward_seed(self._seed, self._rank, layer, self._iteration, micro_batch), self._device)

    def _here(self, activations: Activations) -> Activations:
        return joined({name: tensor.to(self._device) for name, tensor in named(activations).items()})

    # Bytes: counted once for each size of a micro-batch, because to count costs a call for each tensor that is kept.

    def _size_of(self, received: Activations) -> Hashable:
        return tuple((tensor.shape, tensor.dtype) for tensor in named(received).values())

    def _graph_bytes(self, received: Activations) -> int:
        return self._sizes[self._size_of(received)]

    def _count(self) -> None:
        self.most_held = max(self.most_held, self.held)
        self.most_held_bytes = max(self.most_held_bytes, self.held_bytes)


def _cloned(activations: Activations) -> Activations:
    return joined({name: tensor.clone() for name, tensor in named(activations).items()})
