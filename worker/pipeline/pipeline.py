"""This process's stage of a pipeline, as a training loop sees it.

    session = leeway.connect(url, rank="r0")
    pipeline = session.pipeline(model, stages=2, stage=k, micro_batches=8, loss=cross_entropy, example=x)
    while not pipeline.finished:
        x, y = batch(pipeline.committed)            the place of this replica in the data
        pipeline.step(x, y)                         inputs count on the first stage, targets on the last

The one rule: all stages of a replica make the same calls in the same order. Where one is lost, the others drop the
iteration that is under way, wait for another process to take its place, and train the same batch again.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
import torch

from leeway.protocol.codes import Code
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.replicas import Place
from leeway.protocol.spans import Layout
from leeway.protocol.times import StepTimes
from leeway.transport.channel import Tensors
from leeway.worker.pipeline.agreement import Notes, decided, model_digest
from leeway.worker.pipeline.computing import Computing
from leeway.worker.pipeline.cut import parts, read
from leeway.worker.pipeline.iteration import Iteration
from leeway.worker.pipeline.measuring import measure
from leeway.worker.pipeline.micro_batches import micro_batches
from leeway.worker.pipeline.neighbours import Dropped
from leeway.worker.pipeline.plan import make
from leeway.worker.pipeline.stage import build
from leeway.worker.session.states import Outcome
from leeway.worker.torch_bridge import ModelBridge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.errors import WireError
    from leeway.protocol.lives import Life
    from leeway.worker.blocking import BlockingClient
    from leeway.worker.pipeline.blocking import BlockingNeighbours
    from leeway.worker.pipeline.costs import LayerCost
    from leeway.worker.pipeline.cut import Cut
    from leeway.worker.pipeline.iteration import Outcome as Done
    from leeway.worker.pipeline.layers import Layers
    from leeway.worker.pipeline.micro_batches import Batch
    from leeway.worker.pipeline.plan import Plan
    from leeway.worker.pipeline.settings import Settings
    from leeway.worker.receiving import Pulled
    from leeway.worker.session.conversation import Conversation
    from leeway.worker.session.states import Ending
    from leeway.worker.starting import Start
    from leeway.worker.watching.reporting import Reporting

log = structlog.get_logger("worker")

_NOTHING = Tensors(Layout.of(()), ())


class Pipeline:
    """Made by `TrainingSession.pipeline`. For one thread; its session ends it."""

    def __init__(
        self,
        client: BlockingClient,
        neighbours: BlockingNeighbours,
        layers: Layers,
        settings: Settings,
        start: Start,
        reporting: Reporting | None = None,
    ) -> None:
        self._client = client
        self._reporting = reporting
        self._start = start
        self._neighbours = neighbours
        self._settings = settings
        self._layers: Layers | None = layers
        self._names = tuple(layer.name for layer in layers.layers)
        self._specs = layers.specs
        self._aliases = {key: names[1:] for key, names in layers.names.items() if len(names) > 1}
        self._place = Place(
            settings.stage, settings.stages, neighbours.address, _plan_of(layers, settings), Notes().write()
        )
        self._bridge: ModelBridge | None = None
        self._computing: Computing | None = None
        self._life: Life | None = None
        self._sequence = 0
        # An iteration has begun whose end was not seen, at this place in the data.
        self._broken: int | None = None
        self._done: Done | None = None
        self._outcome: Outcome | None = None
        self._times = StepTimes()
        self._version = 0
        self._loaded_at = time.perf_counter()
        self.plan: Plan | None = None
        """Which layers are in which stage, and what they cost; None where nobody has measured."""
        client.client.tell_of_refusal(self._refused)
        if reporting:
            reporting.began_as_stage(settings.stage, settings.stages)

    # What there is to know.

    @property
    def stage(self) -> int:
        return self._settings.stage

    @property
    def stages(self) -> int:
        return self._settings.stages

    @property
    def module(self) -> torch.nn.Module:
        """This stage's layers, under the names of the whole model. Raises `ValueError` before it has begun."""
        return self._begun.stage.module

    @property
    def committed(self) -> int:
        """How many iterations of this replica the server has accepted, over all its lives: which batch is the next."""
        return self._conversation.committed

    @property
    def clock(self) -> int:
        """The index of the iteration under way."""
        return self._conversation.clock

    @property
    def version(self) -> int:
        """The number of the version that the stage holds; 0 before the first pull."""
        return self._version

    @property
    def index(self) -> int:
        """This replica's place among the `count` live workers, from 0, as the iteration was granted: the same for all
        of its stages."""
        return self._conversation.index

    @property
    def count(self) -> int:
        return self._conversation.count

    @property
    def loss(self) -> float | None:
        """Of the last iteration, the mean over its samples; on the last stage alone."""
        return self._done.loss if self._done else None

    @property
    def outcome(self) -> Outcome | None:
        """What became of the last iteration's update, or None before the first."""
        return self._outcome

    @property
    def last(self) -> Done | None:
        """What the last iteration was for this stage: seconds, micro-batches in flight, bytes, what it did when."""
        return self._done

    @property
    def times(self) -> StepTimes:
        """Of the last `step`; all 0 before the first."""
        return self._times

    @property
    def finished(self) -> bool:
        """Whether the run is complete: there is nothing more to compute."""
        return self._conversation.ending is not None

    @property
    def ending(self) -> Ending | None:
        return self._conversation.ending

    @property
    def ending_detail(self) -> str:
        return self._conversation.ending_detail

    # What there is to do.

    def begin(self, example: Batch | None = None) -> None:
        """Join, wait for the other stages, and take this stage's parameters. `example`: inputs of a batch, where the
        cut is measured. Once; `step` does it where it was not done.

        Raises `ValueError` for a model that cannot be cut so, `WireError` where this stage does not fit the others.
        """
        if self._computing is not None:
            return
        layers, settings = self._layers, self._settings
        assert layers is not None, "it has begun, or was not begun before"
        costs = self._measured(layers, example)
        self._place = replace(self._place, notes=Notes(costs).write())
        self._client.take_place(self._place)
        cut = self._agreed(layers)
        init = bool(self._conversation.specs)
        stage = build(layers, cut, settings.stage, settings.seed, init=init, device=settings.device)
        bridge = ModelBridge(stage.module) if any(layer.keys for layer in stage.layers) else None
        keys = tuple(spec.name for spec in bridge.specs) if bridge else ()
        others = {tie.key for tie in stage.ties if tie.owner != settings.stage}
        owned = tuple(key for key in keys if key not in others)
        self._place = replace(self._place, keys=keys, owned=owned, notes=Notes(costs, cut).write())
        self._client.take_place(self._place)
        self._start.wait(self._client)
        if bridge is None:
            self._client.offer(self._specs, lambda layout: (), whole=True, aliases=self._aliases, own=())
        else:
            self._client.offer(self._specs, bridge.values, whole=True, aliases=self._aliases, own=owned)
        self._bridge = bridge
        rank = self._client.client.rank
        self._computing = Computing(
            stage, seed=settings.seed, rank=rank, loss=settings.loss, recompute=settings.recompute
        )
        # Layers of other stages are nobody's any more.
        self._layers = None
        self._load(self._client.pull())

    def step(
        self,
        inputs: Batch | None = None,
        targets: Batch | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Outcome:
        """Train one batch: forward and backward in micro-batches, push, obey the policy, pull.

        `inputs` count on the first stage and `targets` on the last; others may leave them out. Either is a batch (a
        tensor whose first dimension is the samples, or a flat tuple of those), which is cut into micro-batches whose
        sizes differ by one at most, or a list of micro-batches. `metrics`: numbers for the server's status, beside the
        loss.
        Where a stage was lost the batch is trained again in the next life of the replica. Returns what became of the
        update; one that was dropped for good (`finished`, or a server that has gone back) says so, and `committed` says
        which batch is next.

        Raises `ValueError` for a batch that cannot be; nothing has happened then, and the same step can be called
        again. After any other exception too, Ctrl-C for one; what was under way then is given up by all stages.
        """
        self.begin(inputs)
        if completed := self._mended():
            return completed
        place = self.committed
        while True:
            if self.finished:
                raise ValueError(f"there is nothing more to train: {self.ending}; loop while not pipeline.finished")
            try:
                outcome = self._iterate(inputs, targets, metrics or {})
            except Dropped as dropped:
                log.warning("iteration dropped", detail=str(dropped), clock=self.clock)
                outcome = self._go_on() or Outcome(self.clock, None, Code.STAGE_LOST)
            if self._is_over(outcome, place):
                return outcome
            if self._reporting:
                self._reporting.dropped_iteration()

    def evaluate(self, inputs: Batch | None = None, targets: Batch | None = None) -> Done:
        """Forward alone, in the mode of evaluation; nothing is changed. With targets the last stage's `loss` is the
        mean over the samples; without, its `outputs` are those of each micro-batch. Inputs and targets as in `step`.
        """
        self.begin(inputs)
        self._mended()
        while True:
            try:
                return self._iteration(inputs, targets).evaluate()
            except Dropped as dropped:
                log.warning("evaluation dropped", detail=str(dropped), clock=self.clock)
                self._go_on()
                if self.finished:
                    raise ValueError(f"there is nothing more to evaluate: {self.ending}") from None

    # How it is done.

    @property
    def _conversation(self) -> Conversation:
        return self._client.conversation

    @property
    def _begun(self) -> Computing:
        if self._computing is None:
            raise ValueError("the pipeline has not begun; call begin() or step() first")
        return self._computing

    def _measured(self, layers: Layers, example: Batch | None) -> tuple[LayerCost, ...] | None:
        settings = self._settings
        if example is None:
            if settings.measured:
                raise ValueError(
                    f"cut={settings.cut!r} measures each layer, on every stage: give all of them an example of the"
                    " inputs (example=, or inputs in the first step), or say the cut, as in cut='2,3'"
                )
            return None
        first = micro_batches(example, settings.micro_batches, "inputs")[0]
        return tuple(measure(layers, first, device=settings.device))

    def _agreed(self, layers: Layers) -> Cut:
        """The cut that all stages come to."""
        settings = self._settings
        replica = self._client.client.replica
        assert replica is not None, "a stage has joined"
        notes = [Notes.read(stage.notes, self._names) for stage in replica.stages]
        cut = decided(notes, len(layers), settings.stages)
        rows = [each.costs for each in notes]
        known = [row for row in rows if row is not None]
        text = settings.cut if settings.stages > 1 else str(len(layers))
        if cut is not None:
            text = ",".join(map(str, cut))
        if len(known) == settings.stages:
            self.plan = make(known, settings.schedule.name, settings.micro_batches, text, recompute=settings.recompute)
            sizes = tuple(len(stage.layers) for stage in self.plan.stages)
        elif settings.measured and cut is None:
            raise ValueError("another stage has measured nothing; give all stages an example of the inputs")
        else:
            sizes = read(text, len(layers), settings.stages)
        self._tell(sizes)
        return sizes

    def _tell(self, sizes: Cut) -> None:
        begin, end = parts(sizes)[self.stage]
        log.info("stage", stage=self.stage, of=self.stages, layers=", ".join(self._names[begin:end]))
        if self.plan and self.stage == 0:
            for line in self.plan.table().splitlines():
                log.info(line)

    def _refused(self, error: WireError) -> None:
        """In the loop of the client: a heartbeat was refused, so nobody will hand this stage anything any more."""
        self._neighbours.drop(error.detail, self._life)

    def _iteration(self, inputs: Batch | None, targets: Batch | None) -> Iteration:
        settings, computing = self._settings, self._begun
        iteration = Iteration(computing, self._neighbours, self.committed, settings.micro_batches, inputs, targets)
        self._broken = self.committed
        self._neighbours.begin(self._sequence)
        self._sequence += 1
        return iteration

    def _iterate(self, inputs: Batch | None, targets: Batch | None, metrics: Mapping[str, float]) -> Outcome:
        before = self._client.client.traffic.copy()
        done = self._iteration(inputs, targets).train(self._settings.schedule)
        computed = time.perf_counter()
        figures = {**metrics} if done.loss is None else {"loss": done.loss, **metrics}
        tensors = self._gradients()
        if self._reporting:
            self._reporting.begun(self._conversation.life, done.samples, figures)
        began, collected = self._loaded_at, time.perf_counter()
        outcome, pulled = self._client.pushpull(UpdateKind.GRADIENT, done.samples, tensors, figures, self._told())
        after = self._client.client.traffic
        received = time.perf_counter()
        sending = after.send_seconds - before.send_seconds
        receiving = after.receive_seconds - before.receive_seconds
        self._done, self._outcome = done, outcome
        self._times = StepTimes(
            outcome.clock,
            compute_seconds=max(0.0, computed - began - done.waited_seconds),
            push_seconds=collected - computed + sending,
            wait_seconds=max(0.0, received - collected - sending - receiving),
            pull_seconds=receiving,
            bubble_seconds=done.waited_seconds,
        )
        self._load(pulled)
        self._times = replace(self._times, pull_seconds=receiving + self._loaded_at - received)
        self._report(done, outcome)
        return outcome

    def _report(self, done: Done, outcome: Outcome) -> None:
        if self._reporting:
            self._reporting.iterated(done, self._neighbours.carried)
            self._reporting.stepped(self._client.client, self._conversation, outcome, self._times)

    def _is_over(self, outcome: Outcome, place: int) -> bool:
        """Whether the batch of this place has had its end; else it is trained again, in the next life."""
        return self.finished or not outcome.dropped or self.committed != place

    def _told(self) -> StepTimes | None:
        return self._times if self._outcome else None

    def _gradients(self) -> Tensors:
        """Nothing, where the layers of this stage have nothing to train."""
        bridge = self._bridge
        if bridge is None or all(parameter.grad is None for parameter in bridge.parameters):
            return _NOTHING
        return bridge.gradients(first=self.index == 0)

    def _mended(self) -> Outcome | None:
        """After an iteration whose end was not seen: what became of it if it was accepted, else None, in a new life."""
        if self._broken is None:
            return None
        place = self._broken
        outcome = self._client.settle() if self._conversation.in_hand else None
        if outcome is None or outcome.dropped:
            self._client.begin_anew()
        self._load(self._client.pull())
        if self.committed == place:
            return None
        return outcome

    def _go_on(self) -> Outcome | None:
        """Wait for the next life of the replica. Returns what became of the update, where one was accepted."""
        before = self._conversation.life
        outcome = self._client.settle() if self._conversation.in_hand else None
        pulled = self._client.pull()
        if not self.finished and self._conversation.life == before:
            # Only this stage has lost touch: the others have to be told.
            self._client.begin_anew()
            pulled = self._client.pull()
        self._load(pulled)
        return outcome

    def _load(self, pulled: Pulled | None) -> None:
        """Have the stage hold what was pulled, in whichever life that was; None: there is nothing more."""
        if pulled is None:
            log.info("nothing more to compute", ending=str(self.ending), detail=self.ending_detail)
        else:
            if self._bridge is not None:
                self._bridge.load(pulled.frame)
            self._version = pulled.grant.version.number
            self._meet()
        self._broken = None
        self._loaded_at = time.perf_counter()

    def _meet(self) -> None:
        """The stages of a new life, where it is one."""
        life, replica = self._conversation.life, self._client.client.replica
        assert life is not None, "what was pulled was pulled in a life"
        assert replica is not None, "of a replica"
        if life == self._life:
            return
        self._life, self._sequence = life, 0
        self._neighbours.begin_life(
            life,
            self.stage,
            self.stages,
            [stage.address for stage in replica.stages],
            replica.secret,
            micro_batches=self._settings.micro_batches,
            room=self._settings.room,
        )


def _plan_of(layers: Layers, settings: Settings) -> dict[str, str]:
    """What must be the same in all stages."""
    return {
        "model": model_digest(layers.specs, (layer.module for layer in layers.layers)),
        "cut": settings.cut,
        "micro_batches": str(settings.micro_batches),
        "schedule": settings.schedule.name,
        "seed": str(settings.seed),
        "torch": torch.__version__,
    }
