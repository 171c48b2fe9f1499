"""The values of one group: its versions, its optimizer, and the steps from one version to the next.

The one rule: values are only ever written to a body that nobody has seen yet. `offer`, `step`, `configure`,
`save` and `restore` belong to the group's one applier thread; they compute and return a version, and whoever
decides about the order of things publishes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from leeway.protocol.pushes import UpdateKind
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind
from leeway.ps.arithmetic import buffers
from leeway.ps.arithmetic.aggregation.plain_sum import Sum
from leeway.ps.arithmetic.aggregation.registry import DEFAULT_RULE
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.arithmetic.guards import non_finite
from leeway.ps.arithmetic.optimizers import Optimizer, StateLost
from leeway.ps.arithmetic.runs import Chart, Run, split
from leeway.ps.arithmetic.settings import OptimizerSettings
from leeway.ps.arithmetic.stages import run
from leeway.ps.arithmetic.transforms import Clip, Measure, Scale
from leeway.ps.arithmetic.trial import try_settings
from leeway.ps.arithmetic.updates import Contribution, Updates
from leeway.ps.arithmetic.values import Masters, Values
from leeway.ps.arithmetic.versions import Snapshot, VersionStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    import torch

    from leeway.protocol.frames import Frame
    from leeway.protocol.tensors import TensorSpec
    from leeway.ps.arithmetic.aggregation.rule import Rule
    from leeway.ps.arithmetic.stages import Stage, States
    from leeway.ps.arithmetic.updates import Scratch
    from leeway.transport.memory.pool import Pool


# Each update is a step of its own: the sum of one.
_ON_ARRIVAL = Sum()


@dataclass(frozen=True, slots=True)
class Update:
    """One worker's update of one iteration, in one frame or several parts without a tensor in common.

    Its frames are finite where that matters, and checked against the current layout. `values`: trainable tensors in
    them that are set to what was sent, in place of being stepped by it. `rank`: whose it is.
    """

    kind: UpdateKind
    samples: int
    frames: tuple[Frame, ...]
    values: frozenset[str] = frozenset()
    rank: str = ""

    @classmethod
    def of(cls, kind: UpdateKind, samples: int, frames: tuple[Frame, ...], rank: str = "") -> Update:
        """The update of these frames, whose messages were read as a `Push` when they came."""
        values = frozenset(name for frame in frames for name in frame.message.get("values") or ())
        return cls(kind, samples, frames, values, rank)


@dataclass(frozen=True, slots=True)
class Step:
    """A computed version, not yet published. `gradient_norm` is that before clipping; None where it was not
    measured.
    """

    snapshot: Snapshot
    learning_rate: float
    gradient_norm: float | None


@dataclass(frozen=True, slots=True)
class Saved:
    """All of a group's values between two steps: what a checkpoint holds of it.

    `optimizer_tensors` are named `<state>/<key>`; `optimizer` is what of its state is plain data. `masters`, by key,
    are the float32 values of what is trained in half precision; where one is missing (saved before there were any) it
    is made from the rounded value. `states`: those of the stages before the optimizer.
    """

    number: int
    layout: Layout
    body: memoryview
    optimizer_tensors: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    masters: Mapping[str, torch.Tensor] = field(default_factory=dict)
    states: States = field(default_factory=dict)


class Parameters:
    """One group's values. `workers` is the configured number, for the scale of deltas that come one by one.

    `rule`: what makes one gradient of a round's updates. `chosen`: somebody has chosen the settings; else
    those that are restored go on. `on_released` is the version store's. Raises `ValueError` for
    settings with which no step can be made.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        pool: Pool,
        *,
        workers: int = 1,
        rule: Rule = DEFAULT_RULE,
        chosen: bool = True,
        on_released: Callable[[], None] | None = None,
    ) -> None:
        self.versions = VersionStore(pool, on_released)
        self._pool = pool
        self._workers = workers
        self.rule = rule
        self.chosen = chosen
        # Replaced as a whole by a step that is made, and never written to.
        self._states: States = {}
        try_settings(settings)
        self._latest = self.versions.current
        self._masters = Masters.of(self._latest.layout)
        self._values = Values(self._masters, memoryview(b""), memoryview(b""))
        self._chart = Chart(self._latest.layout)
        self._optimizer = Optimizer(settings, self._latest.layout, self._values)

    @property
    def settings(self) -> OptimizerSettings:
        return self._optimizer.settings

    @property
    def steps(self) -> int:
        """Optimizer steps made so far, over all restarts from saved state."""
        return self._optimizer.steps

    def configure(self, settings: OptimizerSettings) -> None:
        """Other settings of the same kind from the next step on; they have been tried (`try_settings`)."""
        self._optimizer.configure(settings)

    def offer(self, number: int, frame: Frame, names: Collection[str]) -> Snapshot:
        """Version `number`: those tensors of the frame that are named are added, all others stay as they are.

        None of the names is known yet. The versions have `room`.
        """
        added = [spec for spec in frame.specs if spec.name in names]
        known = self._latest.layout
        assert added, "a version without a new tensor"
        layout = Layout.of([*(place.spec for place in known.places.values()), *added])
        masters = Masters.of(layout)
        memory, new = self._fresh(number, masters)
        offered = Body(frame.body)
        new.clear()
        for name, place in known.places.items():
            new.tensor(layout.places[name]).copy_(self._values.tensor(place))
        for place in frame.places:
            if place.spec.name in names:
                new.tensor(layout.places[place.spec.name]).copy_(offered.tensor(place))
        new.round()
        snapshot = _snapshot(number, layout, memory, new)
        self._optimizer.extend(layout, new)
        return self._use(snapshot, new, masters)

    def adopt(self, number: int, specs: Iterable[TensorSpec], sources: Mapping[str, str]) -> Snapshot:
        """Version `number`: the latest one's values under other names and kinds, before any step was made.

        `sources`: what each tensor of `specs` is called in the latest version. The versions have `room`.
        """
        assert not self.steps, "names are settled before the first step"
        known = self._latest.layout
        layout = Layout.of(specs)
        masters = Masters.of(layout)
        memory, new = self._fresh(number, masters)
        new.clear()
        for name, place in layout.places.items():
            new.tensor(place).copy_(self._values.tensor(known.places[sources[name]]))
        new.round()
        snapshot = _snapshot(number, layout, memory, new)
        self._optimizer = Optimizer(self.settings, layout, new)
        return self._use(snapshot, new, masters)

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors of the current version have the same bytes. May be asked from any thread."""
        current = self.versions.current
        first, second = (current.layout.places[twin] for twin in (name, other))
        return (first.spec.shape, first.spec.dtype) == (second.spec.shape, second.spec.dtype) and bytes(
            current.body[first.offset_bytes : first.end_bytes]
        ) == bytes(current.body[second.offset_bytes : second.end_bytes])

    def step(
        self,
        number: int,
        updates: Sequence[Update],
        *,
        aggregated: bool,
        live_workers: int = 1,
        measure_norm: bool = False,
    ) -> Step:
        """Version `number`: one optimizer step from the latest version computed.

        `aggregated`: the updates are a round's, in natural rank order, and their weights do not sum to zero.
        Otherwise there is one, which takes effect on arrival; `live_workers` is how many share the buffers.
        `measure_norm`: measure the gradient's norm though no clipping needs it. The versions have `room`.

        After an exception everything is as before the step, so that the next one can be made, or all saved; but for
        `StateLost`: the optimizer's state (momentum and the like, not its count of steps) has begun anew then.
        """
        assert aggregated or len(updates) == 1, "on arrival, each update is a step of its own"
        contributions, assigned = self._contributions(updates)
        scratch = self._scratch()
        trainable = [_only(contribution, trainable=True) for contribution in contributions]
        stages = self._stages(updates[0].kind, aggregated=aggregated, measure_norm=measure_norm)
        aggregate, states = run(stages, self._states, Updates(trainable, scratch))

        layout = self._latest.layout
        memory, new = self._fresh(number, self._masters)
        for span in layout.spans:
            if span.kind is not Kind.TRAINABLE:
                new.body.copy(self._values.body, span.offset_bytes, span.nbytes)
        if aggregated:
            buffers.aggregate([_only(contribution, trainable=False) for contribution in contributions], new.body)
        else:
            buffers.arrive(_only(contributions[0], trainable=False).runs, live_workers, new.body)
        # Last, since all else leaves what was there before untouched.
        try:
            rate = self._optimizer.step(self._values, new, aggregate.gradient)
            # The first contributor's value is the one that stays.
            for runs in reversed(assigned):
                self._optimizer.assign(new, runs)
            snapshot = _snapshot(number, layout, memory, new)
        except BaseException as error:
            if self._optimizer.put_back(self._values):
                raise
            raise StateLost(f"a step failed, and with it the optimizer's state: {error}") from error
        self._states = states
        return Step(self._use(snapshot, new, self._masters), rate, aggregate.norm)

    def again(self, number: int) -> Snapshot:
        """Version `number`, whose step failed: the values of the latest, in the same memory."""
        self._latest = replace(self._latest, number=number)
        return self._latest

    def save(self) -> Saved:
        """All values, as they are between two steps.

        The body is the version itself: immutable, so not copied, but it counts as live until it is let go; so do the
        masters and the states of stages. The optimizer's state, which the next step changes in place, is copied.
        """
        tensors, metadata = self._optimizer.save()
        masters = {place.spec.name: self._values.tensor(place) for place in self._masters.places()}
        return Saved(
            self._latest.number, self._latest.layout, self._latest.body, tensors, metadata, masters, self._states
        )

    def restore(self, saved: Saved) -> Snapshot:
        """Take over saved values, as the version of their number. Only before anything else was offered.

        Raises `ValueError` when the optimizer is of another kind than the saved one, or the masters are not the
        values' own.
        """
        assert self._latest.number == 0, "saved values are restored into an empty group"
        if saved.number == 0:
            return self._latest
        masters = Masters.of(saved.layout)
        memory, new = self._fresh(saved.number, masters)
        memory[:] = saved.body
        new.widen()
        places = {place.spec.name: place for place in masters.places()}
        for name, master in saved.masters.items():
            if name not in places or tuple(master.shape) != places[name].spec.shape:
                raise ValueError(f"the saved master {name!r} belongs to no half-precision parameter of this model")
            new.tensor(places[name]).copy_(master)
        snapshot = _snapshot(saved.number, saved.layout, memory, new)
        self._optimizer.extend(saved.layout, new)
        self._optimizer.load(saved.optimizer_tensors, saved.optimizer)
        if not self.chosen:
            self._optimizer.configure(OptimizerSettings.read(saved.optimizer["settings"]))
        # What another rule has saved is of no use to this one.
        used = (self.rule.name, Scale.name, Clip.name)
        self._states = {name: state for name, state in saved.states.items() if name in used}
        return self._use(snapshot, new, masters)

    def _use(self, snapshot: Snapshot, values: Values, masters: Masters) -> Snapshot:
        if snapshot.layout is not self._latest.layout:
            self._chart = Chart(snapshot.layout)
        self._latest, self._values, self._masters = snapshot, values, masters
        return snapshot

    def _fresh(self, number: int, masters: Masters) -> tuple[memoryview, Values]:
        """A version's body, and the values that write to it."""
        memory = self.versions.fresh(number, masters.layout.nbytes)
        return memory, Values(masters, memory, self._pool.take(masters.nbytes))

    def _contributions(self, updates: Sequence[Update]) -> tuple[list[Contribution], list[list[Run]]]:
        """What the step is computed from, and apart from it the values that are set after it."""
        contributions, assigned = [], []
        for update in updates:
            runs = self._chart.runs(update.frames)
            if update.values:
                runs, values = split(runs, update.values)
                assigned.append(values)
            # All members of a round have pulled these values: while it is open, versions can add keys and no more.
            pulled = self._values.body if update.kind is UpdateKind.MODEL else None
            contributions.append(Contribution(update.samples, runs, update.rank, pulled))
        return contributions, assigned

    def _scratch(self) -> Scratch:
        """Values to compute in, taken when first asked for, and free again after the step."""
        taken: list[Values] = []
        masters = self._masters

        def scratch() -> Values:
            if not taken:
                memory, wide = self._pool.take(masters.layout.nbytes), self._pool.take(masters.nbytes)
                taken.append(Values(masters, memory, wide))
            return taken[0]

        return scratch

    def _stages(self, kind: UpdateKind, *, aggregated: bool, measure_norm: bool) -> Iterable[Stage]:
        """What makes the optimizer's gradient of the updates, in order."""
        if not aggregated and kind is UpdateKind.DELTA:
            factor = self.settings.delta_scale or 1.0 / self._workers
            if factor != 1.0:
                yield Scale(factor)
        yield self.rule if aggregated else _ON_ARRIVAL
        if self.settings.clip_norm is not None:
            yield Clip(self.settings.clip_norm)
        elif measure_norm:
            yield Measure()


def _only(contribution: Contribution, *, trainable: bool) -> Contribution:
    runs = [run for run in contribution.runs if run.trainable is trainable]
    return Contribution(contribution.samples, runs, contribution.rank, contribution.pulled)


def _snapshot(number: int, layout: Layout, memory: memoryview, values: Values) -> Snapshot:
    found = tuple(non_finite(tuple(layout.places.values()), values.body))
    return Snapshot(number, layout, memory.toreadonly(), found)
