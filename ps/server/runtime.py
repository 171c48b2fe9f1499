"""Performs what the machine decides: bodies to the appliers, replies to whoever asked, everything to the observers.

The one rule: this is the only caller of `machine.step`, always on the event loop, one event at a time. An event that
comes up while another one's effects are being performed waits its turn.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from protocol.errors import Code, WireError
from protocol.reasons import Reason
from protocol.replies import Granted, NotYet, Pushed, PushPulled, Refused
from protocol.requests import Pull, Push
from ps.arithmetic import admission
from ps.arithmetic.guards import GuardMode, guard
from ps.arithmetic.parameters import Update
from ps.core import describe
from ps.core.effects import (
    Answered,
    Apply,
    Began,
    Drop,
    Ended,
    Finished,
    Initialize,
    Parked,
    RoundClosed,
    RoundOpened,
    Switched,
)
from ps.core.events import Asked, Gone, Heard, Published, Stop, Tick
from ps.observability.logs import OnChange
from ps.observability.metrics import GroupView, WorkerState, WorkerView
from ps.server.applier import INLINE_BYTES, Applier, Job
from ps.server.readers import Readers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from protocol.frames import Frame
    from protocol.replies import PolicyState, Reply
    from protocol.requests import Life, Request
    from ps.arithmetic.memory import Pool
    from ps.arithmetic.parameters import Parameters, Step
    from ps.arithmetic.versions import Snapshot
    from ps.core.deduplication import Verdict
    from ps.core.effects import Effect
    from ps.core.events import Event
    from ps.core.machine import Machine
    from ps.observability.metrics import ServerMetrics
    from ps.server.history import History

# Leases and waits run out at this resolution; the work of a tick is a few microseconds a worker.
TICK_SECONDS = 0.1


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
    """`parameters`: the arithmetic of each group. `workers` is their configured number."""

    def __init__(
        self,
        machine: Machine,
        parameters: Mapping[str, Parameters],
        *,
        pool: Pool,
        guard_mode: GuardMode,
        metrics: ServerMetrics,
        history: History | None = None,
        bodies: Mapping[int, Frame] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.machine = machine
        self.parameters = parameters
        self.metrics = metrics
        self.readers = Readers(self._reader_closed)
        self.finished = asyncio.Event()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pool = pool
        self._guard_mode = guard_mode
        self._history = history
        self._clock = clock
        self._started_at = clock()
        self._loop = asyncio.get_running_loop()
        self.bodies: dict[int, Frame] = dict(bodies or {})
        self._numbers = itertools.count(max(self.bodies, default=0) + 1)
        self._asking: dict[int, _Asking] = {}
        self._events: deque[Event] = deque()
        self._stepping = False
        self._reported: dict[str, dict[str, float]] = {}
        self._log = structlog.get_logger("ps")
        self._why_changed = OnChange()
        self.on_published: Callable[[str, int], None] = lambda group, number: None
        self.appliers = {
            name: Applier(
                name,
                self._loop,
                has_room=partial(self._has_room, name),
                on_stall=partial(self._stalled, name),
                on_failure=self._fail,
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

    def heard(self, life: Life) -> None:
        self.happen(Heard(life))

    def tick(self) -> None:
        now = self._clock()
        self.readers.close_late(now)
        self.happen(Tick())
        if self._history:
            self._history.flush()

    def stop(self) -> None:
        """Answer every parked request; take none from now on."""
        self.happen(Stop())

    def happen(self, event: Event) -> None:
        self._events.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._events:
                event = self._events.popleft()
                effects = self.machine.step(event, self._clock())
                if self._history:
                    self._history.record(self._clock() - self._started_at, event, effects)
                for effect in effects:
                    self._perform(effect)
        finally:
            self._stepping = False

    # Questions.

    def judge(self, push: Push) -> Verdict:
        return self.machine.judge(push)

    async def inspect(self, push: Push, frame: Frame) -> None:
        """Look at an update's tensors: are they the group's, are they finite. Raises `WireError`."""
        admission.check(self.parameters[push.group].versions.current.layout, frame)
        try:
            if frame.body.nbytes < INLINE_BYTES:
                culprit = guard(frame, self._guard_mode)
            else:
                culprit = await self._loop.run_in_executor(None, guard, frame, self._guard_mode)
        except WireError as error:
            self.metrics.non_finite(push.group)
            self._log.warning("non-finite", rank=push.life.rank, clock=push.clock, tensor=error.facts.get("tensor"))
            raise
        if culprit is not None:
            self.metrics.non_finite(push.group)
            self._log.warning("non-finite applied", rank=push.life.rank, clock=push.clock, tensor=culprit)

    def allocate(self, nbytes: int) -> memoryview:
        """Memory for a body that is about to be received."""
        return self._pool.take(nbytes)

    def policy(self, group: str) -> PolicyState:
        self._known(group)
        return self.machine.groups[group].policy_state()

    def optimizer(self, group: str) -> dict[str, Any]:
        one = self._known(group)
        return {
            "group": group,
            **one.settings.to_fields(),
            "steps": one.steps,
            "learning_rate": one.settings.learning_rate(one.steps),
        }

    async def set_optimizer(self, group: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Other settings, from the next step decided after this on. Raises `WireError`."""
        one = self._known(group)
        try:
            settings = one.settings.changed(changes)
        except ValueError as error:
            raise WireError(Code.INVALID_VALUE, str(error)) from None
        changed: asyncio.Future[str | None] = self._loop.create_future()

        def configure() -> str | None:
            try:
                one.configure(settings)
            except ValueError as error:
                return str(error)
            return None

        self.appliers[group].submit(Job(configure, changed.set_result, nbytes=0, makes_version=False))
        wrong = await changed
        if wrong:
            raise WireError(Code.INVALID_VALUE, wrong)
        self._log.info("optimizer changed", group=group, **settings.to_fields())
        return self.optimizer(group)

    def status(self) -> dict[str, Any]:
        now = self._clock()
        told = describe.status(self.machine, now)
        told["uptime_seconds"] = round(now - self._started_at, 3)
        for worker in told["workers"]:
            worker["reported"] = self._reported.get(worker["rank"], {})
        for name, group in told["groups"].items():
            group["live_versions"] = self.parameters[name].versions.live
            group["learning_rate"] = self.optimizer(name)["learning_rate"]
        return told

    def not_ready_because(self) -> str | None:
        """None: the server takes requests and there is something to pull."""
        if self.machine.stopping:
            return "the server is stopping"
        empty = [name for name, group in self.machine.groups.items() if not group.published]
        return f"no parameters yet in {', '.join(empty)}" if empty else None

    def views(self) -> list[GroupView]:
        """The state, for the metrics."""
        return [
            GroupView(
                name,
                group.published,
                self.parameters[name].versions.live,
                group.min_clock,
                [
                    WorkerView(
                        one.rank,
                        one.groups[name].clock,
                        one.groups[name].clock - group.min_clock,
                        WorkerState.WAITING if group.waiting.of(one) else WorkerState.COMPUTING,
                    )
                    for one in group.roster
                ],
            )
            for name, group in self.machine.groups.items()
        ]

    def _known(self, group: str) -> Parameters:
        if group not in self.parameters:
            known = ", ".join(self.parameters)
            raise WireError(Code.UNKNOWN_GROUP, f"there is no group {group[:80]!r}; this server has {known}")
        return self.parameters[group]

    # Effects out.

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Answered(request, reply):
                self._answer(request, reply)
            case Parked(request, who, reason, detail):
                self._asking[request].waited_for = reason
                if self._why_changed(who, reason):
                    self._log.info("waits", who=who, reason=str(reason), detail=detail)
            case Apply():
                self._apply(effect)
            case Initialize(group, number, body, specs):
                frame, names = self.bodies[body], frozenset(spec.name for spec in specs)
                one = self.parameters[group]
                self._submit(group, lambda: one.offer(number, frame, names), self._offered(group), frame.body.nbytes)
            case Drop(bodies):
                for body in bodies:
                    self.bodies.pop(body, None)
            case Began(rank, incarnation):
                self.metrics.joined()
                self._log.info("joined", rank=rank, incarnation=incarnation)
            case Ended(rank, incarnation, reason, detail):
                self.metrics.departed(reason)
                self._reported.pop(rank, None)
                self._why_changed.forget(f"{rank}#{incarnation}")
                log = self._log.info if reason is Reason.LEFT else self._log.warning
                log("ended", rank=rank, incarnation=incarnation, reason=str(reason), detail=detail)
            case RoundOpened(group, number, members):
                self._log.debug("round opens", group=group, round=number, members=members)
            case RoundClosed(group, number, contributors, samples):
                self.metrics.round_closed(group)
                self._log.debug("round closes", group=group, round=number, of=contributors, samples=samples)
            case Switched(group, mode, staleness, switch_point):
                self._log.info("switched", group=group, mode=mode, staleness=staleness, after=switch_point)
            case Finished():
                self._log.info("finished", until=self.machine.settings.until)
                self.finished.set()

    def _answer(self, request: int, reply: Reply) -> None:
        asking = self._asking.pop(request, None)
        self._count(reply, asking)
        if asking is None or asking.answer.done():
            return
        granted = reply.pulled if isinstance(reply, PushPulled) else reply
        version = None
        if isinstance(granted, Granted) and not granted.unchanged:
            assert isinstance(asking.message, (Pull, Push)), "only these are granted anything"
            version = self.parameters[asking.message.group].versions.current
            assert version.number == granted.version.number, f"{granted} but {version}"
        asking.answer.set_result(Outcome(reply, version))

    def _count(self, reply: Reply, asking: _Asking | None) -> None:
        pushed = reply.pushed if isinstance(reply, PushPulled) else reply
        pulled = reply.pulled if isinstance(reply, PushPulled) else reply
        if isinstance(pulled, Refused):
            self.metrics.refused(pulled.error.code)
        if asking is None:
            return
        push = asking.message
        if isinstance(push, Push) and isinstance(pushed, Pushed) and pushed.reason is not Reason.REPEATED:
            self.metrics.pushed(push.group, pushed.disposition, pushed.reason)
            if push.metrics:
                self._reported[push.life.rank] = dict(push.metrics)
        if isinstance(pulled, (Granted, NotYet)) and isinstance(asking.message, Pull) and asking.message.life:
            waited = self._clock() - asking.since
            self.metrics.pull_answered(asking.message.group, asking.waited_for, waited)

    def _apply(self, apply: Apply) -> None:
        updates = [
            Update(apply.kind, one.samples, tuple(self.bodies.pop(body) for body in one.bodies))
            for one in apply.contributions
        ]
        one = self.parameters[apply.group]
        nbytes = sum(frame.body.nbytes for update in updates for frame in update.frames)

        def step() -> tuple[Step, float]:
            begin = time.perf_counter()
            made = one.step(apply.number, updates, aggregated=apply.aggregated, live_workers=apply.live)
            # Whoever waits for this memory (a next body) need not wait for the job's last reference to fall.
            updates.clear()
            return made, time.perf_counter() - begin

        def stepped(result: tuple[Step, float]) -> None:
            made, seconds = result
            staleness = [apply.staleness] * len(apply.contributions)
            self.metrics.stepped(apply.group, seconds, staleness, made.gradient_norm)
            self._publish(apply.group, made.snapshot)

        self._submit(apply.group, step, stepped, nbytes)

    def _offered(self, group: str) -> Callable[[Snapshot], None]:
        return lambda snapshot: self._publish(group, snapshot)

    def _submit(self, group: str, work: Callable[[], Any], done: Callable[[Any], None], nbytes: int) -> None:
        # The step touches the whole model, however small the update.
        model_bytes = self.parameters[group].versions.current.layout.nbytes
        self.appliers[group].submit(Job(work, done, max(nbytes, model_bytes)))

    def _publish(self, group: str, snapshot: Snapshot) -> None:
        self.parameters[group].versions.publish(snapshot)
        self.happen(Published(group, snapshot.number))
        self.on_published(group, snapshot.number)

    def _has_room(self, group: str) -> bool:
        return self.parameters[group].versions.room

    def _memory_freed(self, group: str) -> None:
        # Called from whichever thread lets go of a version last, at the end of the process too.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.appliers[group].go_on)

    def _stalled(self, group: str) -> None:
        self.readers.press(group, self.parameters[group].versions.current.number, self._clock())

    def _reader_closed(self) -> None:
        self.metrics.slow_reader_closed()
        self._log.warning("slow reader closed")

    def _fail(self, error: BaseException) -> None:
        self._log.error("a step failed; the server stops", exc_info=error)
        if not self.failed.done():
            self.failed.set_exception(error)
