"""What `leeway.connect` returns: a training loop's view of the server, for one torch module or several parts.

The one rule: the loop holds the interpreter, and nothing changes behind its back.

    session.attach(model)                       parameters are those of the server now
    while not session.finished:
        loss(model(x), y).backward()
        session.step(samples=len(x))            push the gradients, obey the policy, pull

Several: `session.attach({"G": generator, "D": discriminator})`, then `session.step("D", samples=len(x))`.
Local steps: let a local optimizer take some, then `session.step(samples=n, update="delta")`.
Gradient accumulation: call `backward` several times and `step` once, with all the samples.
Mixed precision: `scaler.unscale_(optimizer)` before `step`, and `skip()` in place of it when the scaler would have
skipped; what is not finite all the same is refused by the server and becomes a skip by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import structlog

from leeway.protocol import parts as part_keys
from leeway.protocol.codes import Code
from leeway.protocol.fields import MAX_INTEGER, shown
from leeway.protocol.pushes import UpdateKind
from leeway.worker import arguments
from leeway.worker.no_effect import Idle
from leeway.worker.one_thread import for_one_thread
from leeway.worker.part import LastLoad, Part, Update, disjoint
from leeway.worker.parts import Parts
from leeway.worker.pipeline.blocking import BlockingNeighbours
from leeway.worker.pipeline.pipeline import Pipeline
from leeway.worker.pipeline.settings import pipeline_of
from leeway.worker.sampler import Sampler
from leeway.worker.samples import Samples
from leeway.worker.session.states import Outcome
from leeway.worker.starting import Start
from leeway.worker.torch_bridge import ModelBridge
from leeway.worker.wrapping import WRAPPED, Wrapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    import torch

    from leeway.protocol.times import StepTimes
    from leeway.transport.channel import Traffic
    from leeway.worker.blocking import BlockingClient
    from leeway.worker.session.states import Ending
    from leeway.worker.watching.reporting import Reporting
    from leeway.worker.wrapping import Optimizer

log = structlog.get_logger("worker")

T = TypeVar("T")


def _batches(loader: Iterable[T]) -> Iterator[T]:
    try:
        return iter(loader)
    except TypeError:
        raise ValueError(f"loader is {shown(loader)}, it must give batches, as a DataLoader does") from None


def _bridge_of_part(name: str, module: torch.nn.Module, exclude: str | Iterable[str]) -> ModelBridge:
    try:
        return ModelBridge(module, exclude, prefix=part_keys.prefix(name))
    except ValueError as error:
        raise ValueError(f"part {name}: {error}") from None


def _why_none(loader: object) -> str:
    sampler = getattr(loader, "sampler", None)
    lack = sampler.lack() if isinstance(sampler, Sampler) else ""
    return lack or (
        "is the data set empty or, with drop_last, smaller than a batch, or the loader an iterator that is used up?"
    )


class TrainingSession:
    """One worker and what it trains: one module, or several parts. For one thread. Made by `leeway.connect`; ends with
    its `with` block, `close`, or the interpreter's exit.

    Calls raise `ServerLost` when the server is away for longer than the client's patience, and `WireError` for a
    refusal that is the user's to mend (another model, a tensor of the wrong shape), when another process has taken the
    rank, or when this worker gave way in a circle of waiters (`deadlock`). In a forked child they raise `RuntimeError`:
    connect there, under a rank of its own.
    """

    def __init__(self, client: BlockingClient, start: Start | None = None, reporting: Reporting | None = None) -> None:
        self.client = client
        self._start = start or Start()
        self._reporting = reporting
        self._idle: Idle | None = None
        self._has_joined = False
        self._is_stage = False
        self._has_pipeline = False
        self._caller: int | None = None  # the thread whose call is under way
        self.samples = Samples()
        """What was read since the last push, as `epochs` and `Sampler` count it."""
        self._figures: dict[str, float] = {}
        self._last_load = LastLoad()
        (group,) = client.client.groups
        self._parts = Parts({group: self._part(group)})
        self._group = group

    def _part(self, name: str) -> Part:
        group = self.client.group(name)
        return Part(name, group, self.samples, self._figures, self._last_load, self._reporting)

    @property
    def _joined(self) -> Parts:
        """The parts of a worker that has joined: what is asked of them the server has to tell."""
        if not self._has_joined:
            self.join()
        return self._parts

    # What there is to know. Of a session with several parts each has its own clock, outcome and end.

    @property
    def parts(self) -> Mapping[str, Part]:
        """The parts by their names, in the order of `attach`; of a session with one module, its group alone."""
        return self._parts.by_name

    @property
    def rank(self) -> str:
        return self.client.client.rank

    @property
    def clock(self) -> int:
        """The index of the iteration under way."""
        return self._joined.only("clock").clock

    @property
    def version(self) -> int:
        """The number of the version that the module holds; 0 before the first pull."""
        return self._parts.only("version").version

    @property
    def outcome(self) -> Outcome | None:
        """What became of the last update, or None before the first."""
        return self._parts.only("outcome").outcome

    @property
    def times(self) -> StepTimes:
        """Of the last `step` or `skip`; all 0 before the first."""
        return self._parts.only("times").times

    @property
    def lag(self) -> int:
        """Iterations ahead of the slowest live worker, at the last pull."""
        return self._parts.only("lag").lag

    @property
    def staleness(self) -> int | None:
        """Versions that others made between the last update's pull and its application; None when not told."""
        return self._parts.only("staleness").staleness

    @property
    def policy(self) -> str:
        """The group's policy at the last join."""
        return self._joined.only("policy").policy

    @property
    def until(self) -> int | None:
        """The clock at which the run is complete, where the server has one."""
        return self._joined.only("until").until

    @property
    def index(self) -> int:
        """This worker's place among the `count` live ones, from 0: for partitioning data."""
        return self._joined.going.index

    @property
    def count(self) -> int:
        """How many workers were live at the last pull, at least 1."""
        return self._joined.going.count

    @property
    def finished(self) -> bool:
        """Whether the run is complete for this worker, in all its parts: there is nothing more to compute."""
        return self._parts.finished

    @property
    def ending(self) -> Ending | None:
        """Why it is."""
        return self._parts.going.ending

    @property
    def ending_detail(self) -> str:
        """The same in words, as the server told it; empty before the end, and where this worker has left by itself."""
        return self._parts.going.ending_detail

    @property
    def traffic(self) -> Traffic:
        """Seconds and bytes of all requests so far, heartbeats aside."""
        return self.client.client.traffic

    @property
    def metrics_url(self) -> str | None:
        """Where this worker's metrics are served; None: nowhere."""
        return self._reporting.url if self._reporting else None

    # What there is to do.

    @for_one_thread
    def join(self) -> None:
        """Join now, and not with the first call that needs it: from here on others see this worker, and wait for it."""
        self.client.join()
        self._has_joined = True

    @for_one_thread
    def attach(
        self,
        model: torch.nn.Module | Mapping[str, torch.nn.Module],
        exclude: str | Iterable[str] | Mapping[str, str | Iterable[str]] = (),
        keys: str | Iterable[str] | None = None,
    ) -> None:
        """Wait for those that start together, offer the module's values as the initial ones, and take the server's.

        The first worker's become those of all. What is attached is all that the group holds: a server with other keys
        refuses it (`schema-conflict`, with the names). `exclude`: names, or patterns as a shell has them (`"head.*"`),
        of parameters and buffers that are this worker's own: they are not offered, pulled or pushed. `keys`: names or
        patterns of what is trained here, a part of the group; nothing else of the group is compared.
        Several modules, or parts of one, `{"G": generator, "D": discriminator}`, are each a group of the server with
        keys `G/...`, a clock, a policy and an end of its own, and are stepped by name; `exclude` is then by part too.
        A group that is not there yet is made, with the settings of the default one.
        Once per session; after an exception it can be called again.
        Raises `ValueError` for a module that cannot travel, and for a pattern that matches nothing (see `View`).
        """
        self.client.check()
        self._check_no_stage()
        if self._parts.attached:
            raise ValueError("a model is attached already; a session trains one, or the parts of one attach({...})")
        if isinstance(model, Mapping):
            self._attach_parts(model, exclude, keys)
            return
        if isinstance(exclude, Mapping):
            raise ValueError("exclude is by part, and the model is one; give names: exclude=['head.*']")
        bridge = ModelBridge(model, exclude, keys)
        self._work_in([self._group], create=False)
        self._begin({self._group: bridge}, whole=keys is None)

    def _attach_parts(
        self,
        modules: Mapping[str, torch.nn.Module],
        exclude: str | Iterable[str] | Mapping[str, str | Iterable[str]],
        keys: object,
    ) -> None:
        names = [arguments.name("part", name) for name in modules]
        if not names:
            raise ValueError("attach({}) has no part: give each module a name, attach({'G': generator, ...})")
        if keys is not None:
            raise ValueError("keys= is for a part of one group; with several parts each takes all its keys")
        if not isinstance(exclude, Mapping):
            if exclude != ():
                raise ValueError("with several parts exclude says of which: exclude={'G': ['head.*']}")
            exclude = {}
        if strange := [name for name in exclude if name not in modules]:
            raise ValueError(f"exclude names {strange[0]!r}, and the parts are {', '.join(names)}")
        bridges = {name: _bridge_of_part(name, module, exclude.get(name, ())) for name, module in modules.items()}
        disjoint(bridges)
        self._work_in(names, create=True)
        self._begin(bridges, whole=True)

    def _begin(self, bridges: Mapping[str, ModelBridge], *, whole: bool) -> None:
        """All of them, or none: whatever is refused, or interrupts this, it can be done again."""
        self.join()
        self._start.wait(self.client)
        try:
            for name, bridge in bridges.items():
                self._parts.by_name[name].offer(bridge, whole=whole)
            for name, bridge in bridges.items():
                self._parts.by_name[name].attach(bridge)
        except BaseException:
            for part in self._parts.all:
                part.detach()
            raise

    def _work_in(self, names: Sequence[str], *, create: bool) -> None:
        """Have these groups be the worker's, in the life that it has."""
        if list(self.parts) != list(names):
            self.client.work_in(names, create=create)
            self._parts = Parts({name: self._part(name) for name in names})

    @for_one_thread
    def pipeline(
        self,
        model: torch.nn.Module | Sequence[torch.nn.Module],
        stages: int,
        stage: int,
        micro_batches: int,
        *,
        loss: Callable[[Any, Any], torch.Tensor] | None = None,
        blocks: str | Iterable[str] | None = None,
        cut: str = "time",
        example: Any = None,
        schedule: str = "1f1b",
        seed: int = 0,
        recompute: bool = False,
        wire_dtype: Literal["bfloat16"] | None = None,
        device: str | torch.device = "cpu",
        host: str | None = None,
        port: int = 0,
        advertise: str | None = None,
    ) -> Pipeline:
        """Train one stage of a model whose layers are spread over `stages` processes, this one being number `stage`,
        from 0. All of them connect with the same rank: together they are one worker, a replica.

        `model`: an `nn.Sequential`, a list of modules, or a module with `blocks`, the names of its parts in the order
        in which they run. Built under `torch.device("meta")` it takes no memory; each stage makes its own layers real,
        and initial values are a function of (`seed`, layer). `micro_batches`: how many a batch is cut into.
        `loss(output, target)`: the mean over a micro-batch, on the last stage. `cut`: "time" or "memory", balanced by
        what each layer costs on the machines that will run it, for which all stages need an `example` of a batch's
        inputs (here, or in `begin`), or how many layers each stage has, "2,3". `schedule`: "1f1b", "gpipe" or "zb-h1".
        `recompute`: keep only what a stage receives, and compute the rest again for the backward pass. `wire_dtype`:
        "bfloat16" halves what activations and errors take on the way.
        `host` and `port`: where this stage listens for the others; `advertise`: HOST or HOST:PORT by which they reach
        it, where that is another. In place of `attach`, and before anything else is asked of the session. Once per
        session; after an exception it can be called again.

        Raises `ValueError` for a model that cannot be cut so and for a wrong argument, `WireError` (`stages-differ`)
        where another stage has another model, cut, seed, schedule, number of micro-batches or version of torch.
        """
        self.client.check()
        if self._has_pipeline:
            self._check_no_stage()
        if self._parts.attached or (self._has_joined and not self._is_stage):
            raise ValueError("this session has joined as a worker already; call pipeline before anything else")
        port = arguments.integer("port", port, 0, 65535)
        settings, layers = pipeline_of(
            model, stages, stage, micro_batches, loss, blocks, cut, schedule, seed, device, recompute=recompute
        )
        neighbours = BlockingNeighbours(
            self.client, self.client.client.url, host=host, port=port, advertise=advertise, wire_dtype=wire_dtype
        )
        self._has_joined = self._is_stage = True
        pipeline = Pipeline(self.client, neighbours, layers, settings, self._start, self._reporting)
        try:
            if example is not None or not settings.measured:
                pipeline.begin(example)
        except BaseException:
            neighbours.close("this stage has not begun")
            raise
        self._has_pipeline = True
        return pipeline

    def _check_no_stage(self) -> None:
        if self._is_stage:
            raise ValueError("this session trains a stage of a pipeline already; connect once more for anything else")

    @for_one_thread
    def pull(self, part: str | None = None) -> None:
        """Take the server's parameters once more for this iteration, and `index` and `count` as they are now; of
        `part`, or of all parts that are not complete."""
        for each in self._parts.chosen(part):
            if not self._parts.is_over(each):
                interrupted = each.interrupted
                each.pull()
                if interrupted:  # it has seen that step to its end
                    self._parts.done(each)

    @for_one_thread
    def step(
        self,
        part: str | None = None,
        samples: int | None = None,
        metrics: Mapping[str, float] | None = None,
        update: Literal["gradient", "delta", "model"] = "gradient",
        *,
        keep_gradients: bool = False,
    ) -> Outcome:
        """Push this iteration's update, wait as the policy says, pull; then every gradient is None, unless
        `keep_gradients` leaves them to the loop.

        `part`: which one, where there are several; None: all of them, those first that may have to wait. A step of one
        touches no other: what is left in its gradients is not pushed, and an iteration is not atomic over parts.
        `samples`: how many were in it, the update's weight under `sync`; None: those that `epochs` or a `Sampler` has
        counted. `metrics`: numbers for the server's status and dashboards (at most 32), for example the loss, beside
        those of `report`. Both may be numpy's or tensors of one element.
        `update`: "gradient" takes each parameter's `grad`; "delta" is pulled minus local, for a loop that steps
        locally; "model" is the local values themselves, of which the server makes that difference, under `sync` only.
        Returns what became of the update (of several, of the last); it is in `outcome` too. A part that is complete
        while others go on, or since the loop has asked, pushes nothing: its update is dropped, `finished`. A step that
        was interrupted (Ctrl-C) can be called again: when its update has gone out, the next call, be it `step`, `skip`
        or `pull`, completes it. Gradients that are there then are of parameters that are no longer the current ones,
        and are not pushed.

        Raises `ValueError` for a wrong argument, when there is nothing to push, when the run is complete, after a
        `pull` that was interrupted and not repeated, and when the module has changed otherwise than in its values.
        Nothing has happened then, nor after any other exception before something was sent: the same step can be called
        again. Raises `SessionClosed` when the session is closed meanwhile. Warns of trained parameters that the loop
        has changed between pull and a push of gradients.
        """
        parts = self._parts.to_step(part)
        numbers = arguments.metrics(self._figures | arguments.metrics(metrics))
        kind = arguments.update_kind(update)
        weights = {each.name: self._weight(each, samples) for each in parts}
        # All that can be wrong with any part is found before something of the first one is sent.
        collected = {each.name: self._collect(each, kind) for each in parts}
        if part is None:
            self._parts.begin(parts)
        outcome = None
        for each in parts:
            found = collected[each.name]
            if isinstance(found, Update):
                outcome = each.push(found, weights[each.name], numbers, keep_gradients=keep_gradients)
            else:
                outcome = found
            self._parts.done(each)
            self._parts.count(each)
        if kind is UpdateKind.GRADIENT and self._idle is None:
            bridges = [each.bridge for each in self._parts.all]
            self._idle = Idle(self, lambda: [tensor for bridge in bridges for tensor in bridge.parameters], WRAPPED)
        assert outcome is not None, "there is a part"
        return outcome

    @for_one_thread
    def skip(self, part: str | None = None) -> Outcome:
        """This iteration has no update (an overflowed mixed-precision step, nothing left to read); otherwise as
        `step`."""
        parts = self._parts.to_step(part)
        if part is None:
            self._parts.begin(parts)
        for each in parts:
            over = self._parts.is_over(each)
            outcome = Outcome(each.clock, None, Code.FINISHED) if over else each.skip()
            self._parts.done(each)
        return outcome

    def report(self, **figures: float) -> None:
        """Numbers for the server's status and dashboards, for example the loss: they go with the next push."""
        self._figures |= arguments.metrics(figures)

    def wrap(
        self,
        optimizer: Optimizer,
        model: torch.nn.Module | Mapping[str, torch.nn.Module] | None = None,
        *,
        every: int = 1,
        samples: int | None = None,
        server_optimizer: bool = False,
        lr: Literal["script"] | None = None,
    ) -> Optimizer:
        """Have each step of a script's own optimizer be an iteration; return it, with this session as its `session`.

        What the step did is pushed as a `delta`; `every` H: what H steps did. `samples`: the weight of each push;
        None: what `epochs` or a `Sampler` has counted since the last one, and without either one for each step.
        `model`: is attached, unless one is. Of several parts it is an iteration of those that it has parameters of.
        `server_optimizer`: gradients are pushed instead, the server's optimizer makes the steps, and the script's moves
        nothing; with `lr="script"` the server goes by the script's rate.
        When the run is finished its steps are pushed no more.

        Raises `ValueError` for an optimizer that is wrapped already, or of another model's parameters.
        """
        Wrapping(optimizer, every=every, samples=samples, server_optimizer=server_optimizer, lr=lr).begin(self, model)
        return optimizer

    def epochs(self, loader: Iterable[T], limit: int | None = None) -> Iterator[T]:
        """The batches of `loader`, epoch after epoch (at most `limit`), until the run is finished. Their samples are
        counted for the next push. A sampler with `set_epoch` is told of each.

        Raises `ValueError` when the loader gives nothing.
        """
        if limit is not None:
            limit = arguments.integer("limit", limit, 1, MAX_INTEGER)
        for epoch in count() if limit is None else range(limit):
            set_epoch = getattr(getattr(loader, "sampler", None), "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
            empty = True
            for batch in _batches(loader):
                if self.finished:
                    return
                empty = False
                self.samples.read(batch)
                yield batch
            if empty:
                raise ValueError(f"the loader gave no batch: {_why_none(loader)}")
            if self.finished:
                return

    def server_optimizer(self, part: str | None = None) -> dict[str, Any]:
        """The settings that the group's optimizer goes by, and how far it is."""
        return self._parts.named(part, "server_optimizer").optimizer()

    def set_learning_rate(self, rate: float, part: str | None = None) -> None:
        """Have the server's optimizer go by this rate, from the next step on; that of `part`, or those of all."""
        rate = arguments.rate(rate)
        for each in self._parts.all if part is None else [self._parts.named(part, "set_learning_rate")]:
            each.set_optimizer({"lr": rate})

    @for_one_thread
    def barrier(self, name: str, parties: int = 1) -> None:
        """Wait until all live workers have come to this barrier as often, and at least `parties` of them.

        Raises `ValueError` when the run has ended for this worker.
        """
        self.client.barrier(name, parties)

    def close(self) -> None:
        """Leave, and close the connections. Can be called again, from any thread, and in a signal handler: a call that
        waits meanwhile raises `SessionClosed`."""
        self.client.close("this session is closed")

    def __enter__(self) -> TrainingSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        """As of now: `<leeway session w0 at http://localhost:8080, iteration 3: computing>`."""
        at = f"leeway session {self.rank} at {self.client.client.url}"
        if self.client.closed:
            return f"<{at}, {self._parts.where(lambda part: 'closed')}>"
        return f"<{at}, {self._parts.where(lambda part: str(part.ending or part.conversation.state))}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a session is not copied or pickled: it has a thread and connections; connect in the process that trains,"
            " under a rank of its own"
        )

    # How it is done.

    def _collect(self, part: Part, kind: UpdateKind) -> Update | Outcome:
        """What this part pushes, or what became of it without a push."""
        if self._parts.is_over(part):
            part.bridge.forget_gradients()
            return Outcome(part.clock, None, Code.FINISHED)
        try:
            return part.collect(kind)
        except ValueError as error:
            raise ValueError(f"part {part.name}: {error}") if self._parts.several else error from None

    def _weight(self, part: Part, samples: int | None) -> int:
        _ = part.bridge  # is there one?
        if samples is not None:
            return arguments.samples(samples)
        if counted := self.samples.of(part.name):
            return counted
        raise ValueError("how many samples are in this update? Give samples=, or read them through session.epochs")
