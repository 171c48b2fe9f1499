"""This process's stage of a pipeline, as a training loop sees it.

    session = leeway.connect(url, rank="r0")
    pipeline = session.pipeline(model, stages=2, stage=k, micro_batches=8, loss=cross_entropy, example=x)
    while not pipeline.finished:
        x, y = batch(pipeline.committed)            the place of this replica in the data
        pipeline.step(x, y)                         inputs count on the first stage, targets on the last

The one rule: all stages of a replica make the same calls in the same order, decided from what they know alike:
`committed`, `index`, `count`, `clock`. Where one is lost, the others drop what is under way and wait for another
process to take its place. They are all at the top of the loop then, as that process is, and `committed` says the same
batch. So does a stage that was interrupted itself: its next call gives that life of the replica up, unless its update
was accepted.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from leeway.protocol.codes import Code
from leeway.protocol.handovers import Call, Direction, Purpose
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.times import StepTimes
from leeway.worker import arguments
from leeway.worker.one_thread import for_one_thread
from leeway.worker.pipeline.computing import Computing
from leeway.worker.pipeline.iteration import Iteration
from leeway.worker.pipeline.neighbours import Dropped, Handed, Unlike
from leeway.worker.pipeline.seat import Seat
from leeway.worker.session.states import Outcome
from leeway.worker.step_times import step_times

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from leeway.protocol.lives import Life
    from leeway.worker.blocking import BlockingClient
    from leeway.worker.pipeline.blocking import BlockingNeighbours
    from leeway.worker.pipeline.carried import Carried
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
        self._seat = Seat(client, neighbours.address, layers, settings)
        self._computing: Computing | None = None
        # The life that the neighbours know, and how many iterations and evaluations have begun in it.
        self._life: Life | None = None
        self._begun = 0
        # One has begun whose end was not seen, at this place in the data.
        self._open: int | None = None
        self._done: Done | None = None
        self._outcome: Outcome | None = None
        self._times = StepTimes()
        self._version = 0
        self._unlike: int | None = None
        self._caller: int | None = None  # the thread whose call is under way
        self._loaded_at = time.perf_counter()
        client.client.tell_of_life_over(neighbours.on_life_over)
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
    def plan(self) -> Plan | None:
        """Which layers are in which stage, and what they cost; None where nobody has measured."""
        return self._seat.plan

    @property
    def module(self) -> torch.nn.Module:
        """This stage's layers, under the names of the whole model. Raises `ValueError` before it has begun."""
        return self._ready.stage.module

    @property
    def committed(self) -> int:
        """How many iterations of this replica the server has accepted, over all its lives: which batch is the next.
        Raises `ValueError` before it has begun: only the server knows what the replica's other lives have committed.
        """
        self._check_begun()
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
    def lag(self) -> int:
        """Iterations ahead of the slowest live worker, at the last pull."""
        grant = self._conversation.grant
        return grant.lag if grant else 0

    @property
    def until(self) -> int | None:
        """The clock at which the run is complete, where the server has one."""
        return self._conversation.until

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
    def carried(self) -> Carried:
        """What this stage has handed over and taken since it began: counts and bytes."""
        return self._neighbours.carried

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

    @for_one_thread
    def begin(self, example: Batch | None = None) -> None:
        """Join, wait for the other stages, and take this stage's parameters. `example`: inputs of a batch, where the
        cut is measured. Once, where `session.pipeline` has not done it; after an exception it can be called again.

        Where the run is complete already nothing happens, and `finished` says so.
        Raises `ValueError` for a model that cannot be cut so, `WireError` where this stage does not fit the others.
        """
        if self._computing is not None or self.finished:
            return
        stage = self._seat.take(example)
        if stage is None:
            return
        self._load(self._seat.offer_and_pull(self._start))
        settings = self._settings
        self._computing = Computing(
            stage, seed=settings.seed, rank=self._rank, loss=settings.loss, recompute=settings.recompute
        )
        self._seat.begun()

    @for_one_thread
    def step(
        self,
        inputs: Batch | None = None,
        targets: Batch | None = None,
        metrics: Mapping[str, float] | None = None,
        *,
        micro_batches: int | None = None,
    ) -> Outcome:
        """Train one batch: forward and backward in micro-batches, push, obey the policy, pull.

        `inputs` count on the first stage and `targets` on the last; others may leave them out. Either is a batch (a
        tensor whose first dimension is the samples, or a flat tuple of those), which is cut into micro-batches whose
        sizes differ by one at most, or a list of micro-batches. `metrics`: numbers for the server's status, beside the
        loss. `micro_batches`: of a batch that is smaller than usual, the same number in all stages.
        Returns what became of the update. Where a stage was lost it was dropped (`stage-lost`), and the next life of
        the replica has begun: `committed` says which batch is next, and `index` and `count` may be others.

        Raises `ValueError` for a batch that cannot be; nothing has happened then, and the same step can be called
        again. Behind any other exception, Ctrl-C for one, the next call says what became of the iteration that was
        under way, and trains nothing: it was accepted, or all stages have given it up.
        """
        if interrupted := self._ready_again():
            return interrupted
        self._must_go_on()
        figures = arguments.metrics(metrics)
        try:
            return self._iterate(inputs, targets, figures, micro_batches)
        except Dropped as dropped:
            return self._given_up(dropped)

    @for_one_thread
    def skip(self) -> Outcome:
        """This iteration has no update, in any stage: all of them call it. Returns what became of that; where a stage
        was lost, as `step` does.
        """
        if interrupted := self._ready_again():
            return interrupted
        self._must_go_on()
        self._open = self.committed
        try:
            self._gather(Purpose.SKIP)
        except Dropped as dropped:
            return self._given_up(dropped)
        self._outcome, pulled = self._client.skip(self._told())
        self._load(pulled)
        return self._outcome

    @for_one_thread
    def evaluate(
        self, inputs: Batch | None = None, targets: Batch | None = None, *, micro_batches: int | None = None
    ) -> Done | None:
        """Forward alone, in the mode of evaluation; nothing is changed. With targets the last stage's `loss` is the
        mean over the samples; without, its `outputs` are those of each micro-batch. Arguments as in `step`.

        None: a stage was lost meanwhile, and the next life of the replica has begun. Also when the run is complete it
        can be called, as long as the other stages are there; None then: one has left, or was lost. Raises what `step`
        raises.
        """
        if self._ready_again():
            return None
        try:
            done = self._iteration(inputs, targets, micro_batches).evaluate()
        except Dropped as dropped:
            if not self.finished:
                self._go_on(dropped)
                return None
            done = None
            log.warning("evaluation given up", rank=self._rank, stage=self.stage, detail=str(dropped))
            self._part(dropped)
        self._open = None
        return done

    @for_one_thread
    def end(self) -> None:
        """Wait until all stages have come here, behind the loop: whoever leaves ends the life of the replica, while
        others may still compute or ask. Returns also when one of them has left."""
        if self._computing is None or self._open is not None:
            return
        try:
            self._gather(Purpose.END)
        except Dropped as dropped:
            self._log("the other stages are not waited for", detail=str(dropped))
            self._part(dropped)

    # How it is done.

    def _log(self, event: str, **facts: Any) -> None:
        log.info(event, rank=self._rank, stage=self.stage, **facts)

    @property
    def _rank(self) -> str:
        return self._client.client.rank

    @property
    def _conversation(self) -> Conversation:
        return self._client.conversation

    def _check_begun(self) -> None:
        if self._computing is None and not self.finished:
            raise ValueError(
                "the pipeline has not begun: its cut is measured, which needs an example of a batch's inputs:"
                " session.pipeline(example=...), or begin(example) first"
            )

    @property
    def _ready(self) -> Computing:
        self._check_begun()
        if self._computing is None:
            raise ValueError(f"the pipeline had no life before the run was complete: {self._why_ended}")
        return self._computing

    @property
    def _why_ended(self) -> str:
        return self.ending_detail or str(self.ending)

    def _ready_again(self) -> Outcome | None:
        """What became of a call whose end was not seen; None: there was none."""
        self._client.check()
        self._check_begun()
        return self._mended()

    def _must_go_on(self) -> None:
        if self.finished:
            raise ValueError(f"there is nothing more to train: {self._why_ended}; loop while not pipeline.finished")

    def _iteration(
        self, inputs: Batch | None, targets: Batch | None, count: int | None, *, training: bool = False
    ) -> Iteration:
        """The next one, begun. Raises `ValueError` for a batch that cannot be: then none has."""
        usual = self._settings.micro_batches
        count = usual if count is None else arguments.integer("micro_batches", count, 1, usual)
        number, parts = self.committed, (inputs, targets)
        iteration = Iteration(self._ready, self._neighbours, number, count, *parts, training=training)
        self._open = number
        self._begin_next(Call(Purpose.TRAIN if training else Purpose.EVALUATE, count))
        return iteration

    def _begin_next(self, call: Call) -> None:
        self._neighbours.begin(self._begun, call)
        self._begun += 1

    def _gather(self, purpose: Purpose) -> None:
        """All stages have come here, for the same. Raises `Dropped`."""
        before, behind = self.stage - 1, self.stage + 1
        self._begin_next(Call(purpose))
        if before >= 0:
            self._neighbours.receive(before, Direction.FORWARD, 0)
        if behind < self.stages:
            self._neighbours.send(behind, Handed(Direction.FORWARD, 0, 1, 1, {}))
            self._neighbours.receive(behind, Direction.BACKWARD, 0)
        if before >= 0:
            self._neighbours.send(before, Handed(Direction.BACKWARD, 0, 1, 1, {}))
            self._neighbours.flush()

    def _iterate(
        self, inputs: Batch | None, targets: Batch | None, metrics: Mapping[str, float], count: int | None
    ) -> Outcome:
        before = self._client.client.traffic.copy()
        done = self._iteration(inputs, targets, count, training=True).train(self._settings.schedule)
        computed = time.perf_counter()
        figures = {**metrics} if done.loss is None else {"loss": done.loss, **metrics}
        tensors = self._seat.bridge.gradients(first=self.index == 0)
        if self._reporting:
            self._reporting.begun(self._conversation.life, done.samples, figures)
        loaded, collected = self._loaded_at, time.perf_counter()
        outcome, pulled = self._client.pushpull(UpdateKind.GRADIENT, done.samples, tensors, figures, self._told())
        received = time.perf_counter()
        self._done, self._outcome = done, outcome
        self._times = times = step_times(
            outcome.clock,
            loaded=loaded,
            computed=computed,
            collected=collected,
            received=received,
            before=before,
            after=self._client.client.traffic,
            bubble_seconds=done.waited_seconds,
        )
        self._load(pulled)
        self._times = replace(times, pull_seconds=times.pull_seconds + self._loaded_at - received)
        self._report(done, outcome)
        return outcome

    def _report(self, done: Done, outcome: Outcome) -> None:
        if self._reporting:
            self._reporting.iterated(done, self._neighbours.carried)
            self._reporting.stepped(self._client.client, self._conversation, outcome, self._times)

    def _told(self) -> StepTimes | None:
        return self._times if self._done else None

    def _mended(self) -> Outcome | None:
        """After a call whose end was not seen: what became of its iteration, maybe in another life. None: there was
        none."""
        place = self._open
        if place is None:
            return None
        if self._conversation.in_hand:
            self._client.settle()
        if self.committed == place and not self.finished:
            self._client.begin_anew()
        self._load(self._client.pull())
        if self.committed == place + 1:
            self._outcome = self._conversation.outcome
        elif self.finished:
            self._outcome = Outcome(self.clock, None, Code.FINISHED)
        else:
            # Given up; or the server has gone back.
            self._outcome = Outcome(self.clock, None, Code.STAGE_LOST)
        return self._outcome

    def _part(self, dropped: Dropped) -> None:
        """Where the run is complete there is no next life: who waits for this stage has to see that it is gone."""
        if self.finished:
            self._neighbours.close(str(dropped))

    def _given_up(self, dropped: Dropped) -> Outcome:
        self._go_on(dropped)
        self._outcome = Outcome(self.clock, None, Code.STAGE_LOST)
        return self._outcome

    def _go_on(self, dropped: Dropped) -> None:
        """Wait for the next life of the replica. Raises `ValueError` for scripts that will never agree."""
        if isinstance(dropped, Unlike):
            # Once may be an interrupt between two calls: in the next life all decide from the same `committed`.
            if self._unlike == self.committed:
                raise ValueError(f"{dropped}, twice at batch {self.committed}; all stages have to make the same calls")
            self._unlike = self.committed
        detail = f"{dropped}; waits until all stages are there"
        log.warning("iteration dropped", rank=self._rank, stage=self.stage, batch=self.committed, detail=detail)
        if self._reporting:
            self._reporting.dropped_iteration()
        before = self._conversation.life
        pulled = self._client.pull()
        if not self.finished and self._conversation.life == before:
            # Only this stage has lost touch: the others have to be told.
            self._client.begin_anew()
            pulled = self._client.pull()
        self._load(pulled)

    def _load(self, pulled: Pulled | None) -> None:
        """Have the stage hold what was pulled, in whichever life that was; None: there is nothing more."""
        if pulled is None:
            self._log("nothing more to train", ending=str(self.ending), detail=self.ending_detail)
            self._neighbours.watch(self._client.client.lease_seconds)
        else:
            self._version = self._seat.load(pulled).number
            self._meet()
        self._open = None
        self._loaded_at = time.perf_counter()

    def _meet(self) -> None:
        """The stages of a new life, where it is one."""
        life, replica = self._conversation.life, self._client.client.replica
        assert life is not None, "what was pulled was pulled in a life"
        assert replica is not None, "of a replica"
        if life == self._life:
            return
        self._begun = 0
        self._neighbours.begin_life(
            life,
            self.stage,
            self.stages,
            [stage.address for stage in replica.stages],
            replica.secret,
            micro_batches=self._settings.micro_batches,
            room=self._settings.room,
        )
        self._life = life
