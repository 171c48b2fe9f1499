"""Performs what the machine decides: bodies to the appliers, replies to whoever asked, everything to the observers.

The one rule: this is the only caller of `machine.step`, always on the event loop, one event at a time. An event that
comes up while another one's effects are being performed waits its turn. What was decided is done, whatever telling it
raises (`listeners`); where deciding or doing itself fails, nothing more is decided, and the server ends.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.reasons import Reason
from leeway.protocol.replies import Granted, OptimizerState, PushPulled, Refused, refuse
from leeway.protocol.requests import Pull, Push, SetOptimizer
from leeway.ps.arithmetic import admission
from leeway.ps.arithmetic.guards import GuardMode, guard
from leeway.ps.arithmetic.optimizers import StateLost
from leeway.ps.arithmetic.parameters import Update
from leeway.ps.arithmetic.settings import OptimizerSettings
from leeway.ps.arithmetic.trial import try_settings
from leeway.ps.core.effects import (
    Adopt,
    Answered,
    Apply,
    Configure,
    Drop,
    Finished,
    Initialize,
    Parked,
)
from leeway.ps.core.events import Asked, Failed, Gone, Paused, Published, Stop, Tick
from leeway.ps.core.offers import Plan
from leeway.ps.server.applier import INLINE_BYTES, Applier, Job
from leeway.ps.server.background import Background, Failure
from leeway.ps.server.pauses import Pauses
from leeway.ps.server.readers import Readers
from leeway.ps.watching.decision_log import DecisionLog
from leeway.ps.watching.feed import Feed
from leeway.ps.watching.listeners import Listeners
from leeway.ps.watching.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from leeway.protocol.frames import Frame
    from leeway.protocol.replies import PolicyState, Reply
    from leeway.protocol.requests import Offer, Request
    from leeway.ps.arithmetic.parameters import Parameters, Step
    from leeway.ps.arithmetic.versions import Snapshot
    from leeway.ps.core.deduplication import Verdict
    from leeway.ps.core.effects import Effect
    from leeway.ps.core.events import Event
    from leeway.ps.core.machine import Machine
    from leeway.ps.watching.history import History
    from leeway.ps.watching.listeners import Listener
    from leeway.ps.watching.metrics import ServerMetrics
    from leeway.transport.memory.pool import Pool

# How often a norm is measured that no step needs. It costs one pass over the gradient (100 MiB: 4 to 9 ms).
NORM_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A reply, and the version that a granted pull is answered with, pinned from the moment of the decision."""

    reply: Reply
    version: Snapshot | None = None


@dataclass(slots=True)
class _Asking:
    message: Request
    since: float
    answer: asyncio.Future[Outcome]
    waited_for: Reason = Reason.GRANTED


class Runtime:
    """`parameters`: the arithmetic of each group. `bodies`: those of held contributions that were resumed from."""

    def __init__(
        self,
        machine: Machine,
        parameters: Mapping[str, Parameters],
        *,
        pool: Pool,
        guard_mode: GuardMode,
        metrics: ServerMetrics,
        history: History | None = None,
        listeners: Listeners | None = None,
        bodies: Mapping[int, Frame] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.machine = machine
        self.parameters = parameters
        self.metrics = metrics
        self._clock = clock
        self._started_at = clock()
        self.decisions = DecisionLog(self.uptime)
        self.observer = Observer(machine, parameters, metrics, self.decisions, self.now)
        self.feed = Feed(machine, self.status, self.observer.progress, self.decisions, self.uptime)
        self.readers = Readers(self._slow_reader_closed)
        self.pauses = Pauses()
        self.listeners = listeners or Listeners(metrics)
        if history:
            self.listeners.add("history", self._recorder(history), delicate=True)
        self.listeners.add("observer", self.observer.took)
        self.listeners.add("feed", self.feed.took)
        self.background = Background(self._task_failed)
        self.finished = asyncio.Event()
        # The first fault of our own; it ends the server.
        self.failed: asyncio.Future[Failure] = asyncio.get_running_loop().create_future()
        # Done when nothing is decided or made any more, because the state is no longer sound.
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # How many versions have been published without the step that was to make them.
        self.failed_steps = 0
        self._pool = pool
        self._guard_mode = guard_mode
        self._history = history
        self._loop = asyncio.get_running_loop()
        self.bodies: dict[int, Frame] = dict(bodies or {})
        self._numbers = itertools.count(max(self.bodies, default=0) + 1)
        self._asking: dict[int, _Asking] = {}
        self._events: deque[Event] = deque()
        self._stepping = False
        # Those of the next step decided; the arithmetic may have some to make before.
        self._settings = {name: one.settings for name, one in parameters.items()}
        self._norm_due = dict.fromkeys(parameters, -math.inf)
        self._unpublished: dict[tuple[str, int], Snapshot] = {}
        self._log = structlog.get_logger("ps")
        self.appliers = {
            name: Applier(
                name,
                self._loop,
                has_room=partial(self._has_room, name),
                on_stall=partial(self._stalled, name),
                on_failure=partial(self.fail, "taking the result of a step"),
            )
            for name in parameters
        }
        for name, one in parameters.items():
            one.versions.on_released = partial(self._memory_freed, name)

    # Events in.

    async def ask(self, message: Request, frame: Frame | None = None) -> Outcome:
        """Hand a request to the machine and wait for its reply.

        Cancelled (the asker is gone), a parked request is forgotten; an accepted push is applied all the same.
        """
        if self.broken.done():
            return Outcome(_broken())
        request = next(self._numbers)
        asking = _Asking(message, self._clock(), self._loop.create_future())
        self._asking[request] = asking
        if frame is not None:
            self.bodies[request] = frame
        self.happen(Asked(request, message))
        try:
            return await asking.answer
        except asyncio.CancelledError:
            if self._asking.pop(request, None):
                self.happen(Gone(request))
            raise

    def noticed_pause(self) -> bool:
        """The ticker has its turn: has the server stood still since its last one?"""
        if seconds := self.pauses.turn(self._clock()):
            self.happen(Paused(seconds))
        return self.pauses.recent

    def tick(self) -> None:
        now = self._clock()
        self.readers.close_late(now)
        self.happen(Tick())
        with self.listeners.guard("feed"):
            self.feed.tick()
        self.flush_history()

    def begin_history(self, facts: Mapping[str, Any]) -> None:
        if self._history:
            with self.listeners.guard("history"):
                self._history.begin(facts)

    def flush_history(self) -> None:
        if self._history and "history" in self.listeners:
            with self.listeners.guard("history"):
                self._history.flush()

    def stop(self) -> None:
        """Answer every parked request; take none from now on."""
        self.happen(Stop())
        with self.listeners.guard("feed"):
            self.feed.stop()

    def happen(self, event: Event) -> None:
        """Take an event, now or after the one being taken. It never raises: see `fail`."""
        self._events.append(event)
        if self._stepping or self.broken.done():
            return
        self._stepping = True
        try:
            while self._events:
                event = self._events.popleft()
                now = self._clock()
                if seconds := self.pauses.look(now):
                    self._take(Paused(seconds), now)
                self._take(event, now)
        except Exception as error:
            self.fail(f"taking '{event}'", error)
        finally:
            self._stepping = False

    def _take(self, event: Event, now: float) -> None:
        if isinstance(event, (Published, Failed)):
            # Here and not when it was made: replies decided before this event are about the version before.
            snapshot = self._unpublished.pop((event.group, event.number))
            self.parameters[event.group].versions.publish(snapshot)
        if isinstance(event, Paused):
            self._paused(event.seconds, now)
        effects = self.machine.step(event, now)
        self.listeners.tell(event, effects, now)
        for effect in effects:
            self._do(effect)
        # Here, between what is done and what is told, is the place of whatever must be kept before it is told.
        for effect in effects:
            self._say(effect)

    def _paused(self, seconds: float, now: float) -> None:
        """Before the machine hears of it, so that nobody is closed, or charged with a wait, for this time."""
        self.readers.paused(seconds, now)
        for asking in self._asking.values():
            asking.since = min(asking.since + seconds, now)

    def fail(self, what: str, error: BaseException, *, state_is_sound: bool = False) -> None:
        """A fault of our own ends the server. Unless the state is sound, nothing is decided from here on: whoever asks
        or waits is told that the server stops.
        """
        failure = Failure(what, error, state_is_sound)
        with suppress(Exception):
            self._log.error("the server fails and stops", what=what, detail=str(failure), exc_info=error)
        if not state_is_sound:
            if not self.broken.done():
                self.broken.set_result(None)
            self._events.clear()
            for asking in self._asking.values():
                if not asking.answer.done():
                    asking.answer.set_result(Outcome(_broken()))
            self._asking.clear()
        if not self.failed.done():
            self.failed.set_result(failure)

    def _task_failed(self, name: str, error: BaseException) -> None:
        self.fail(f"the task '{name}'", error, state_is_sound=not self.broken.done())

    # Questions.

    def judge(self, push: Push) -> Verdict:
        return self.machine.judge(push)

    async def inspect(self, push: Push, frame: Frame) -> None:
        """Look at an update's tensors: are they the group's, are they finite. Raises `WireError`."""
        admission.check(self.parameters[push.group].versions.current.layout, frame, push.values)
        try:
            if frame.body.nbytes < INLINE_BYTES:
                culprit = guard(frame, self._guard_mode, push.values)
            else:
                culprit = await self._loop.run_in_executor(None, guard, frame, self._guard_mode, push.values)
        except WireError as error:
            with self.listeners.guard("observer"):
                self.observer.non_finite(push, error.facts["tensor"], refused=True)
            raise
        if culprit is not None:
            with self.listeners.guard("observer"):
                self.observer.non_finite(push, culprit, refused=False)

    def compare_twins(self, offer: Offer) -> None:
        """What one tensor of the model is two of a file must have the same values there. Raises `WireError`."""
        plan = self.machine.judge_offer(offer)
        for group, name, other in plan.twins if isinstance(plan, Plan) else ():
            if not self.parameters[group].equal(name, other):
                detail = f"{name} and {other} are one tensor in the model, and have other values in the file of --init"
                raise WireError(Code.SCHEMA_CONFLICT, f"{detail}; it is the file of a model in which they are two")

    def allocate(self, nbytes: int) -> memoryview:
        """Memory for a body that is about to be received."""
        return self._pool.take(nbytes)

    def policy(self, group: str) -> PolicyState:
        self._known(group)
        return self.machine.groups[group].policy_state()

    def optimizer(self, group: str) -> OptimizerState:
        """The settings, with the steps made so far and the rate of the next one."""
        steps, settings = self._known(group).steps, self._settings[group]
        progress = {"steps": steps, "learning_rate": settings.learning_rate(steps)}
        return OptimizerState(group, settings.to_fields() | progress)

    async def set_optimizer(self, group: str, changes: Mapping[str, Any]) -> OptimizerState:
        """Other settings, from the next step decided after this on. Raises `WireError`."""
        self._known(group)
        try:
            wanted = self._settings[group].reconfigured(changes)
            try_settings(wanted)
        except ValueError as error:
            raise WireError(Code.INVALID_VALUE, str(error)) from None
        reply = (await self.ask(SetOptimizer(group, wanted.to_fields()))).reply
        if isinstance(reply, Refused):
            raise reply.error
        with self.listeners.guard("observer"):
            self.observer.configured(group, wanted, changes)
        return self.optimizer(group)

    def status(self) -> dict[str, Any]:
        """The whole state, JSON-ready."""
        return self.observer.status(self._clock()) | {"uptime_seconds": round(self.uptime(), 3)}

    def now(self) -> float:
        """Seconds of the clock that the machine goes by."""
        return self._clock()

    def uptime(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started_at

    def not_ready_because(self) -> str | None:
        """None: the server takes requests and there is something to pull."""
        if self.machine.stopping or self.broken.done():
            return "the server is stopping"
        empty = [name for name, group in self.machine.groups.items() if not group.readable]
        return f"no parameters yet in {', '.join(empty)}" if empty else None

    def _known(self, group: str) -> Parameters:
        if group not in self.parameters:
            known = ", ".join(self.parameters)
            raise WireError(Code.UNKNOWN_GROUP, f"there is no group {group[:80]!r}; this server has {known}")
        return self.parameters[group]

    # Effects out.

    def _say(self, effect: Effect) -> None:
        match effect:
            case Answered(request, reply):
                self._answer(request, reply)
            case Parked(request=request, reason=reason):
                if request in self._asking:
                    self._asking[request].waited_for = reason
                else:
                    # The asker went away while its push was being applied; nobody waits for the pull behind it.
                    self.happen(Gone(request))

    def _do(self, effect: Effect) -> None:
        match effect:
            case Apply():
                self._apply(effect)
            case Initialize(group, number, body, specs):
                frame, names = self.bodies[body], frozenset(spec.name for spec in specs)
                offer = partial(self.parameters[group].offer, number, frame, names)
                failed = partial(self._step_failed, group, number, None)
                self._submit(group, offer, partial(self._made, group), failed, frame.body.nbytes)
            case Adopt(group, number, specs, sources):
                adopt = partial(self.parameters[group].adopt, number, specs, sources)
                failed = partial(self._step_failed, group, number, None)
                self._submit(group, adopt, partial(self._made, group), failed, 0)
            case Configure(group, fields):
                self._configure(group, OptimizerSettings.read(fields))
            case Drop(bodies):
                for body in bodies:
                    self.bodies.pop(body, None)
            case Finished():
                self.finished.set()

    def _answer(self, request: int, reply: Reply) -> None:
        asking = self._asking.pop(request, None)
        if asking is None:
            return
        with self.listeners.guard("observer"):
            self.observer.answered(asking.message, reply, asking.waited_for, self._clock() - asking.since)
        granted = reply.pulled if isinstance(reply, PushPulled) else reply
        version = None
        if isinstance(granted, Granted) and not granted.unchanged:
            assert isinstance(asking.message, (Pull, Push)), "only these are granted anything"
            version = self.parameters[asking.message.group].versions.current
            assert version.number == granted.version.number, f"{granted} but {version}"
        if not asking.answer.done():
            asking.answer.set_result(Outcome(reply, version))

    def _apply(self, apply: Apply) -> None:
        updates = [
            Update.of(apply.kind, one.samples, tuple(self.bodies.pop(body) for body in one.bodies), one.rank)
            for one in apply.contributions
        ]
        one = self.parameters[apply.group]
        update_bytes = [sum(frame.body.nbytes for frame in update.frames) for update in updates]
        measure_norm = self._norm_is_due(apply.group)

        def step() -> tuple[Step, float]:
            begin = time.perf_counter()
            made = one.step(
                apply.number,
                updates,
                aggregated=apply.aggregated,
                live_workers=apply.live,
                measure_norm=measure_norm,
            )
            # Whoever waits for this memory (a next body) need not wait for the job's last reference to fall.
            updates.clear()
            return made, time.perf_counter() - begin

        def stepped(result: tuple[Step, float]) -> None:
            made, seconds = result
            with self.listeners.guard("observer"):
                self.observer.stepped(apply, made, update_bytes, seconds)
            self._made(apply.group, made.snapshot)

        failed = partial(self._step_failed, apply.group, apply.number, apply)
        self._submit(apply.group, step, stepped, failed, sum(update_bytes))

    def _configure(self, group: str, settings: OptimizerSettings) -> None:
        """In its place among the steps, those decided before it being made with the settings of before."""
        self._settings[group] = settings
        configure = partial(self.parameters[group].configure, settings)
        failed = partial(self.fail, f"changing the optimizer of group {group}")
        self.appliers[group].submit(Job(configure, _done, failed, nbytes=0, makes_version=False))

    def _norm_is_due(self, group: str) -> bool:
        now = self._clock()
        due = now >= self._norm_due[group]
        if due:
            self._norm_due[group] = now + NORM_SECONDS
        return due

    def _submit(
        self,
        group: str,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
        nbytes: int,
    ) -> None:
        # The step touches the whole model, however small the update.
        model_bytes = self.parameters[group].versions.current.layout.nbytes
        self.appliers[group].submit(Job(work, done, failed, max(nbytes, model_bytes)))

    def _made(self, group: str, snapshot: Snapshot) -> None:
        with self.listeners.guard("observer"):
            self.observer.published(group, snapshot)
        self._unpublished[group, snapshot.number] = snapshot
        self.happen(Published(group, snapshot.number))

    def _step_failed(self, group: str, number: int, apply: Apply | None, error: Exception) -> None:
        """The arithmetic of a version raised: the values before it are published under its number, and all goes on."""
        self.failed_steps += 1
        with self.listeners.guard("observer"):
            self.observer.step_failed(group, number, apply, error)
        # Its frames hold the bodies and the half-made version.
        error.__traceback__ = None
        self._unpublished[group, number] = self.parameters[group].again(number)
        self.happen(Failed(group, number))
        if isinstance(error, StateLost):
            # The values are those before the step, the momentum is gone: that is saved, and somebody has to look at it.
            self.fail(f"the step to version {number} of group {group}", error, state_is_sound=not self.broken.done())

    def _has_room(self, group: str) -> bool:
        return self.parameters[group].versions.room

    def _memory_freed(self, group: str) -> None:
        # Called from whichever thread lets go of a version last, at the end of the process too.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.appliers[group].go_on)

    def _stalled(self, group: str) -> None:
        self.readers.press(group, self.parameters[group].versions.current.number, self._clock())

    def _slow_reader_closed(self) -> None:
        with self.listeners.guard("observer"):
            self.observer.slow_reader_closed()

    def _recorder(self, history: History) -> Listener:
        return lambda event, effects, now: history.record(now - self._started_at, event, effects)


def _done(result: object) -> None:
    """Nothing is left to be done with it."""


def _broken() -> Refused:
    return refuse(Code.STOPPING, "the server stops after a fault of its own, which its log tells; ask when it is back")
