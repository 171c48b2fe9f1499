"""One iteration of a stage: its schedule, over its neighbours.

The one rule: every stage learns from what it is handed how many samples there are, and weighs by that; the first counts
them.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leeway.protocol.handovers import Direction
from leeway.worker.pipeline.borders import laid_out, restored
from leeway.worker.pipeline.micro_batches import micro_batches, samples_of
from leeway.worker.pipeline.neighbours import Handed
from leeway.worker.pipeline.schedules.schedule import Act, Action
from leeway.worker.pipeline.schedules.schedule import forward as forward_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

    from leeway.worker.pipeline.borders import Activations
    from leeway.worker.pipeline.computing import Computing
    from leeway.worker.pipeline.micro_batches import Batch
    from leeway.worker.pipeline.neighbours import Neighbours
    from leeway.worker.pipeline.schedules.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Moment:
    """When the stage did what: seconds since the iteration began. It waited for its neighbours, before and behind, for
    `waited_seconds` of those from `began` to `ended`."""

    action: Action
    began_seconds: float
    ended_seconds: float
    waited_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an iteration of this stage came to.

    `loss`: on the last stage, the mean over all samples. `outputs`: on the last stage of an evaluation without targets,
    those of each micro-batch. `waited_seconds`: the bubble, and what links take.
    """

    loss: float | None
    samples: int
    computed_seconds: float
    waited_seconds: float
    in_flight: int
    activation_bytes: int
    moments: tuple[Moment, ...]
    outputs: tuple[Activations, ...] = ()


class Iteration:
    """Iteration `number` of a stage in `count` micro-batches.

    `inputs` are needed on the first stage, `targets` on the last, unless it is for no `training`: a batch that is cut,
    or a list of micro-batches. Raises `ValueError` where they are missing, and as `micro_batches` does.
    """

    def __init__(
        self,
        computing: Computing,
        neighbours: Neighbours,
        number: int,
        count: int,
        inputs: Batch | None = None,
        targets: Batch | None = None,
        clock: Callable[[], float] = time.perf_counter,
        *,
        training: bool = False,
    ) -> None:
        self._computing, self._stage = computing, computing.stage
        self._neighbours = neighbours
        self._number, self._count = number, count
        self._inputs = self._cut(inputs, "inputs") if self._stage.first else None
        judged = self._stage.last and (training or targets is not None)
        self._targets = self._cut(targets, "targets") if judged else None
        self._samples: dict[int, int] = {}
        self._total = sum(samples_of(piece, "inputs") for piece in self._inputs or ())
        self._clock = clock
        self._waited_seconds = 0.0
        self._moments: list[Moment] = []
        self._outputs: list[Activations] = []

    def train(self, schedule: Schedule) -> Outcome:
        """Gradients afresh. Of a tied key the stage that owns it has the sum in the end, and the others have None."""
        began = self._begin(splits=schedule.splits)
        self._stage.module.zero_grad(set_to_none=True)
        acts = {Act.FORWARD: self._forward, Act.BACKWARD: self._backward, Act.WEIGHTS: self._computing.weights}
        for action in schedule.actions(self._stage.number, self._stage.count, self._count):
            self._do(began, action, acts[action.act])
        self._share()
        return self._outcome(began)

    def evaluate(self) -> Outcome:
        """Forward alone, without dropout and with the statistics of BatchNorm as they are; nothing is changed."""
        began = self._begin()
        with _evaluating(self._stage.module):
            for action in map(forward_of, range(self._count)):
                self._do(began, action, self._look)
        return self._outcome(began)

    def _begin(self, *, splits: bool = False) -> float:
        self._computing.begin(self._number, splits=splits)
        return self._clock()

    def _do(self, began: float, action: Action, act: Callable[[int], None]) -> None:
        start, waited = self._clock(), self._waited_seconds
        act(action.micro_batch)
        end = self._clock()
        self._moments.append(Moment(action, start - began, end - began, self._waited_seconds - waited))

    def _outcome(self, began: float) -> Outcome:
        seconds = self._clock() - began
        losses = [loss.item() * self._samples[index] for index, loss in enumerate(self._computing.losses)]
        return Outcome(
            sum(losses) / self._total if losses else None,
            self._total,
            seconds - self._waited_seconds,
            self._waited_seconds,
            self._computing.most_held,
            self._computing.most_held_bytes,
            tuple(self._moments),
            tuple(self._outputs),
        )

    def _forward(self, micro_batch: int) -> None:
        received = self._received(micro_batch)
        weight = self._samples[micro_batch] / self._total
        output = self._computing.forward(micro_batch, received, weight, self._target(micro_batch))
        if output is not None:
            self._hand(self._stage.number + 1, Direction.FORWARD, micro_batch, laid_out(output))

    def _backward(self, micro_batch: int) -> None:
        errors: Mapping[str, torch.Tensor] = {}
        if not self._stage.last:
            errors = self._take(self._stage.number + 1, Direction.BACKWARD, micro_batch).tensors
        errors = self._computing.backward(micro_batch, errors)
        if not self._stage.first:
            self._hand(self._stage.number - 1, Direction.BACKWARD, micro_batch, errors)

    def _look(self, micro_batch: int) -> None:
        received = self._received(micro_batch)
        target = self._target(micro_batch)
        output = self._computing.look(micro_batch, received, target)
        if not self._stage.last:
            self._hand(self._stage.number + 1, Direction.FORWARD, micro_batch, laid_out(output))
        elif target is None:
            self._outputs.append(output)

    def _received(self, micro_batch: int) -> Activations:
        if self._inputs is not None:
            received = self._inputs[micro_batch]
            self._samples[micro_batch] = samples_of(received, "inputs")
            return received
        handed = self._take(self._stage.number - 1, Direction.FORWARD, micro_batch)
        self._samples[micro_batch], self._total = handed.samples, handed.total
        return restored(handed.tensors)

    def _target(self, micro_batch: int) -> Activations | None:
        if self._targets is None:
            return None
        target = self._targets[micro_batch]
        samples, theirs = self._samples[micro_batch], samples_of(target, "targets")
        if samples != theirs:
            raise ValueError(
                f"micro-batch {micro_batch} has {samples} inputs on the first stage and {theirs} targets on the last;"
                " give both the same batch, both cut by you or neither"
            )
        return target

    def _share(self) -> None:
        """Each gives the owners its share of the gradients of tied keys, and takes the others' shares of its own."""
        ties, number = self._stage.ties, self._stage.number
        for owner in sorted({tie.owner for tie in ties} - {number}):
            theirs = [tie for tie in ties if tie.owner == owner]
            shares = {tie.key: tie.parameter.grad for tie in theirs if tie.parameter.grad is not None}
            self._hand(owner, Direction.SHARE, 0, shares)
            for tie in theirs:
                tie.parameter.grad = None
        mine = {tie.key: tie.parameter for tie in ties if tie.owner == number}
        for stage in sorted({stage for tie in ties if tie.owner == number for stage in tie.stages} - {number}):
            for key, share in self._take(stage, Direction.SHARE, 0).tensors.items():
                parameter = mine[key]
                share = share.to(parameter.device)
                parameter.grad = share if parameter.grad is None else parameter.grad.add_(share)

    # Waiting.

    def _hand(self, stage: int, direction: Direction, micro_batch: int, tensors: Mapping[str, torch.Tensor]) -> None:
        samples = self._samples.get(micro_batch, 0)
        with self._waiting():
            self._neighbours.send(stage, Handed(direction, micro_batch, samples, self._total, tensors))

    def _take(self, stage: int, direction: Direction, micro_batch: int) -> Handed:
        with self._waiting():
            return self._neighbours.receive(stage, direction, micro_batch)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            self._waited_seconds += self._clock() - start

    def _cut(self, batch: Batch | None, what: str) -> Sequence[Activations]:
        if batch is None:
            which = "first" if what == "inputs" else "last"
            raise ValueError(f"the {which} stage needs {what}; give it the batch's, the other stages do without")
        return micro_batches(batch, self._count, what)


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """In the mode of evaluation; each part is in its own behind it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
