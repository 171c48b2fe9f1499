"""What `leeway.connect` returns: a training loop's view of the server, for one torch module.

The one rule: between calls the module holds exactly one pulled version, plus whatever the loop did to it since;
the loop holds the interpreter, and nothing changes behind its back.

    session.attach(model)                       parameters are those of the server now
    while not session.finished:
        loss(model(x), y).backward()
        session.step(samples=len(x))            push the gradients, obey the policy, pull

Local steps: let a local optimizer take some, then `session.step(samples=n, update="delta")`.
Gradient accumulation: call `backward` several times and `step` once, with all the samples.
Mixed precision: `scaler.unscale_(optimizer)` before `step`, and `skip()` in place of it when the scaler would have
skipped; what is not finite all the same is refused by the server and becomes a skip by itself.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import wraps
from itertools import count
from typing import TYPE_CHECKING, Any, Concatenate, Literal, NoReturn, ParamSpec, TypeVar

from leeway.protocol.fields import MAX_INTEGER
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.times import StepTimes
from leeway.worker import arguments
from leeway.worker.no_effect import Idle
from leeway.worker.samples import Samples
from leeway.worker.standing import Begun, Standing
from leeway.worker.starting import Start
from leeway.worker.torch_bridge import ModelBridge
from leeway.worker.wrapping import WRAPPED, Wrapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

    import torch

    from leeway.transport.channel import Traffic
    from leeway.worker.blocking import BlockingClient
    from leeway.worker.receiving import Pulled
    from leeway.worker.session.states import Ending, Outcome
    from leeway.worker.watching.reporting import Reporting
    from leeway.worker.wrapping import Optimizer

P = ParamSpec("P")
T = TypeVar("T")


def for_one_thread(
    method: Callable[Concatenate[TrainingSession, P], T],
) -> Callable[Concatenate[TrainingSession, P], T]:
    """Two threads in one session would push each other's gradients, and tell times that cannot be."""

    @wraps(method)
    def call(self: TrainingSession, /, *values: P.args, **named: P.kwargs) -> T:
        me = threading.get_ident()
        if self._caller not in (None, me):
            raise RuntimeError("another thread uses this session; a session is for one thread: connect once in each")
        before, self._caller = self._caller, me
        try:
            return method(self, *values, **named)
        finally:
            self._caller = before

    return call


class TrainingSession:
    """One worker and its module. For one thread. Made by `leeway.connect`; ends with its `with` block, `close`, or
    the interpreter's exit.

    Calls raise `ServerLost` when the server is away for longer than the client's patience, and `WireError` for a
    refusal that is the user's to mend (another model, a tensor of the wrong shape), or when another process has
    taken the rank. In a forked child they raise `RuntimeError`: connect there, under a rank of its own.
    """

    def __init__(self, client: BlockingClient, start: Start | None = None, reporting: Reporting | None = None) -> None:
        self.client = client
        self._start = start or Start()
        self._reporting = reporting
        self._idle: Idle | None = None
        self._bridge: ModelBridge | None = None
        self._caller: int | None = None  # the thread whose call is under way
        self._standing = Standing(self.traffic.copy(), time.perf_counter())
        self.samples = Samples()
        """What was read since the last push, as `epochs` and `Sampler` count it."""
        self._figures: dict[str, float] = {}

    # What there is to know.

    @property
    def rank(self) -> str:
        return self.client.conversation.rank

    @property
    def clock(self) -> int:
        """The index of the iteration under way."""
        return self.client.conversation.clock

    @property
    def version(self) -> int:
        """The number of the version that the module holds; 0 before the first pull."""
        return self._standing.version

    @property
    def outcome(self) -> Outcome | None:
        """What became of the last update, or None before the first."""
        return self._standing.outcome

    @property
    def times(self) -> StepTimes:
        """Of the last `step` or `skip`; all 0 before the first."""
        return self._standing.times

    @property
    def lag(self) -> int:
        """Iterations ahead of the slowest live worker, at the last pull."""
        grant = self.client.conversation.grant
        return grant.lag if grant else 0

    @property
    def staleness(self) -> int | None:
        """Versions that others made between the last update's pull and its application; None when not told."""
        return self.outcome.staleness if self.outcome else None

    @property
    def index(self) -> int:
        """This worker's place among the `count` live ones, from 0: for partitioning data."""
        return self.client.conversation.index

    @property
    def count(self) -> int:
        """How many workers were live at the last pull, at least 1."""
        return self.client.conversation.count

    @property
    def policy(self) -> str:
        """The group's policy at the last join."""
        return self.client.conversation.policy

    @property
    def until(self) -> int | None:
        """The clock at which the run is complete, where the server has one."""
        return self.client.conversation.until

    @property
    def finished(self) -> bool:
        """Whether the run is complete for this worker: there is nothing more to compute."""
        return self.client.conversation.ending is not None

    @property
    def ending(self) -> Ending | None:
        """Why it is."""
        return self.client.conversation.ending

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
    def attach(
        self,
        model: torch.nn.Module,
        exclude: str | Iterable[str] = (),
        keys: str | Iterable[str] | None = None,
    ) -> None:
        """Wait for those that start together, offer the module's values as the initial ones, and take the server's.

        The first worker's become those of all. What is attached is all that the group holds: a server with other keys
        refuses it (`schema-conflict`, with the names). `exclude`: names, or patterns as a shell has them (`"head.*"`),
        of parameters and buffers that are this worker's own: they are not offered, pulled or pushed. `keys`: names or
        patterns of what is trained here, a part of the group; nothing else of the group is compared. Once per session;
        after an exception it can be called again.
        Raises `ValueError` for a module that cannot travel, and for a pattern that matches nothing (see `View`).
        """
        self.client.check()
        if self._bridge is not None:
            raise ValueError("a model is attached already; a session trains one")
        bridge = ModelBridge(model, exclude, keys)
        if bridge.on_gpu:
            self.client.client.receive_into(bridge.allocate)
        try:
            self._start.wait(self.client)
            self.client.offer(bridge.specs, bridge.values, whole=keys is None, aliases=bridge.aliases)
            self._loaded(bridge, self.client.pull())
        except BaseException:
            self.client.withdraw()
            raise
        self._bridge = bridge

    @for_one_thread
    def pull(self) -> None:
        """Take the server's parameters once more for this iteration, and `index` and `count` as they are now."""
        bridge = self._attached()
        bridge.check()
        if self._standing.begun is Begun.STEP and self._complete(time.perf_counter()):
            return
        if self.finished:
            raise self._is_finished()
        self._begin(Begun.PULL)
        self._loaded(bridge, self.client.pull())

    @for_one_thread
    def step(
        self,
        samples: int | None = None,
        metrics: Mapping[str, float] | None = None,
        update: Literal["gradient", "delta", "model"] = "gradient",
        *,
        keep_gradients: bool = False,
    ) -> Outcome:
        """Push this iteration's update, wait as the policy says, pull; then every gradient is None, unless
        `keep_gradients` leaves them to the loop.

        `samples`: how many were in it, the update's weight under `sync`; None: those that `epochs` or a `Sampler` has
        counted. `metrics`: numbers for the server's status and dashboards (at most 32), for example the loss, beside
        those of `report`. Both may be numpy's or tensors of one element.
        `update`: "gradient" takes each parameter's `grad`; "delta" is pulled minus local, for a loop that steps
        locally; "model" is the local values themselves, of which the server makes that difference, under `sync` only.
        Returns what became of the update; it is in `outcome` too. A step that was interrupted (Ctrl-C) can be called
        again: when its update has gone out, the next call, be it `step`, `skip` or `pull`, completes it. Gradients that
        are there then are of parameters that are no longer the current ones, and are not pushed.

        Raises `ValueError` for a wrong argument, when there is nothing to push, when the run is complete, after a
        `pull` that was interrupted and not repeated, and when the module has changed otherwise than in its values.
        Nothing has happened then, nor after any other exception before something was sent: the same step can be called
        again. Raises `SessionClosed` when the session is closed meanwhile. Warns of trained parameters that the loop
        has changed between pull and a push of gradients.
        """
        bridge = self._attached()
        if samples is None and not self.samples.count:
            raise ValueError("how many samples are in this update? Give samples=, or read them through session.epochs")
        weight = self.samples.count if samples is None else arguments.samples(samples)
        numbers = arguments.metrics(self._figures | arguments.metrics(metrics))
        kind = arguments.update_kind(update)
        began = time.perf_counter()
        if completed := self._ready(bridge, began):
            return completed
        tensors = bridge.update(kind, first=self.index == 0, alone=self.count == 1)
        collected = time.perf_counter()
        if self._reporting:
            self._reporting.begun(self, weight, numbers)
        self._begin(Begun.STEP)
        outcome, pulled = self.client.pushpull(kind, weight, tensors, numbers, self._times_to_tell())
        self.samples.taken()
        self._figures = {}
        if kind is UpdateKind.GRADIENT and self._idle is None:
            self._idle = Idle(self, bridge.attached, WRAPPED)
        return self._stepped(began, collected, outcome, pulled, keep_gradients=keep_gradients)

    @for_one_thread
    def skip(self) -> Outcome:
        """This iteration has no update (an overflowed mixed-precision step, nothing left to read); otherwise as
        `step`."""
        bridge = self._attached()
        bridge.check()
        began = time.perf_counter()
        if completed := self._ready(bridge, began):
            return completed
        if self._reporting:
            self._reporting.begun(self)
        self._begin(Begun.STEP)
        outcome, pulled = self.client.skip(self._times_to_tell())
        return self._stepped(began, began, outcome, pulled)

    def report(self, **figures: float) -> None:
        """Numbers for the server's status and dashboards, for example the loss: they go with the next push."""
        self._figures |= arguments.metrics(figures)

    def wrap(
        self,
        optimizer: Optimizer,
        model: torch.nn.Module | None = None,
        *,
        every: int = 1,
        samples: int | None = None,
        server_optimizer: bool = False,
        lr: Literal["script"] | None = None,
    ) -> Optimizer:
        """Have each step of a script's own optimizer be an iteration; return it, with this session as its `session`.

        What the step did is pushed as a `delta`; `every` H: what H steps did. `samples`: the weight of each push;
        None: what `epochs` or a `Sampler` has counted since the last one, and without either one for each step.
        `model`: is attached, unless one is. `server_optimizer`: gradients are pushed instead, the server's optimizer
        makes the steps, and the script's moves nothing; with `lr="script"` the server goes by the script's rate.
        When the run is finished its steps are pushed no more.

        Raises `ValueError` for an optimizer that is wrapped already, or of another model's parameters.
        """
        if model is not None and self._bridge is None:
            self.attach(model)
        wrapping = Wrapping(self, optimizer, every=every, samples=samples, server_optimizer=server_optimizer, lr=lr)
        self._attached().check_owned(wrapping.parameters)
        wrapping.begin()
        optimizer.session = self  # type: ignore[attr-defined]  # torch names no such attribute
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
            for batch in loader:
                if self.finished:
                    return
                empty = False
                self.samples.read(batch)
                yield batch
            if empty:
                raise ValueError(
                    "the loader gave no batch: is the data set empty, or the loader an iterator that is used up?"
                )
            if self.finished:
                return

    def server_optimizer(self) -> dict[str, Any]:
        """The settings that the group's optimizer goes by, and how far it is."""
        return self.client.optimizer()

    def set_learning_rate(self, rate: float) -> None:
        """Have the server's optimizer go by this rate, from the next step on."""
        self.client.set_optimizer({"lr": rate})

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
        client = self.client
        state = "closed" if client.closed else client.conversation.ending or client.conversation.state
        return f"<leeway session {self.rank} at {client.client.url}, iteration {self.clock}: {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a session is not copied or pickled: it has a thread and connections; connect in the process that trains,"
            " under a rank of its own"
        )

    def _attached(self) -> ModelBridge:
        self.client.check()
        if self._bridge is None:
            raise ValueError("no model is attached; call attach(model) first")
        return self._bridge

    def _ready(self, bridge: ModelBridge, began: float) -> Outcome | None:
        """Whether an update of this iteration can be pushed. If not, what became of one that was begun before: it is
        complete now. Raises `ValueError`."""
        if self._standing.begun is not None:
            bridge.check()
            if self._standing.begun is Begun.STEP and (completed := self._complete(began)):
                return completed
        if self.finished:
            raise self._is_finished()
        if self._standing.begun is Begun.PULL:
            raise ValueError(
                "a pull was interrupted, and the module may hold parts of two versions; call pull() again, then compute"
            )
        return None

    def _is_finished(self) -> ValueError:
        return ValueError(f"there is nothing more to push: {self.ending}; loop while not session.finished")

    def _times_to_tell(self) -> StepTimes | None:
        """Where the time of the iteration before went: the server's history is to have it."""
        return self.times if self.outcome else None

    def _begin(self, call: Begun) -> None:
        self._standing = replace(self._standing, begun=call)

    def _complete(self, began: float) -> Outcome | None:
        """See an interrupted step to its end. None: it had not begun for the server, this one can."""
        outcome = self.client.settle()
        if outcome is None or outcome is self.outcome or self.client.conversation.grant is self._standing.grant:
            return None
        return self._stepped(began, time.perf_counter(), outcome, self.client.pull())

    def _stepped(
        self,
        began: float,
        collected: float,
        outcome: Outcome,
        pulled: Pulled | None,
        *,
        keep_gradients: bool = False,
    ) -> Outcome:
        before, after = self._standing, self.traffic
        received = time.perf_counter()
        sending = after.send_seconds - before.traffic.send_seconds
        receiving = after.receive_seconds - before.traffic.receive_seconds
        times = StepTimes(
            outcome.clock,
            compute_seconds=max(0.0, began - before.loaded_at),
            push_seconds=collected - began + sending,
            wait_seconds=max(0.0, received - collected - sending - receiving),
            pull_seconds=receiving,
        )
        assert self._bridge is not None
        self._loaded(self._bridge, pulled, outcome, times, keep_gradients=keep_gradients)
        if self._reporting:
            self._reporting.stepped(self)
        return outcome

    def _loaded(
        self,
        bridge: ModelBridge,
        pulled: Pulled | None,
        outcome: Outcome | None = None,
        times: StepTimes | None = None,
        *,
        keep_gradients: bool = False,
    ) -> None:
        """Have the module hold what was pulled. `outcome`: of the step that this is the end of."""
        began = time.perf_counter()
        if pulled is not None:
            bridge.load(pulled.frame)
        if outcome is not None and not keep_gradients:
            # Before the step counts: whoever is interrupted in here does all of it again.
            bridge.forget_gradients()
        before, now = self._standing, time.perf_counter()
        self._standing = Standing(
            self.traffic.copy(),
            now,
            pulled.grant if pulled else before.grant,
            pulled.grant.version.number if pulled else before.version,
            outcome or before.outcome,
            replace(times, pull_seconds=times.pull_seconds + now - began) if times else before.times,
        )
