"""Performs what the machine decides: bodies to the appliers, replies to whoever asked, everything to the listeners.

The one rule: this is the only caller of `machine.step`, always on the event loop, one event at a time. What was decided
is done, whatever telling it raises (`listeners`); where deciding or doing itself fails, nothing more is decided, and
the server ends.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from leeway.protocol.codes import Code
from leeway.protocol.membership import Joined
from leeway.protocol.pulls import Granted, Pull
from leeway.protocol.pushes import Push, PushPulled
from leeway.protocol.refusals import Refused, refuse
from leeway.ps.core.effects import (
    Adopt,
    Answered,
    Apply,
    Configure,
    Create,
    Drop,
    Finished,
    Initialize,
    Parked,
    Pin,
)
from leeway.ps.core.events import Asked, Failed, Gone, Paused, Published, Stop, Tick
from leeway.ps.server.asking import Askers, Outcome
from leeway.ps.server.background import Background, Failure
from leeway.ps.server.bodies import Bodies
from leeway.ps.server.deadline import Deadline
from leeway.ps.server.event_queue import EventQueue
from leeway.ps.server.offering import Offering
from leeway.ps.server.pauses import Pauses
from leeway.ps.server.publishing import Publishing
from leeway.ps.server.pushing import Pushing
from leeway.ps.server.readers import Readers
from leeway.ps.server.secrets import Secrets
from leeway.ps.server.tuning import Tuning
from leeway.ps.watching.decision_log import DecisionLog
from leeway.ps.watching.feed import Feed
from leeway.ps.watching.listeners import Listeners, Named
from leeway.ps.watching.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from leeway.protocol.frames import Frame
    from leeway.protocol.messages import Reply, Request
    from leeway.ps.arithmetic.guards import GuardMode
    from leeway.ps.arithmetic.parameters import Parameters
    from leeway.ps.core.effects import Effect
    from leeway.ps.core.events import Event
    from leeway.ps.core.machine import Machine
    from leeway.ps.watching.history import History
    from leeway.ps.watching.metrics import ServerMetrics
    from leeway.transport.memory.pool import Pool


class Runtime:
    """`parameters`: the arithmetic of each group, and `make_part` that of one that a worker makes. `listeners`: are
    told of each event, after the history and the runtime's own. `bodies`: those of held contributions that were
    resumed from. `started_at`: the moment of `clock` at which the history begins; now, unless the machine counts from
    an earlier one. `insecure`: anybody gets in, which is told.
    """

    def __init__(
        self,
        machine: Machine,
        parameters: dict[str, Parameters],
        *,
        make_part: Callable[[], Parameters],
        pool: Pool,
        guard_mode: GuardMode,
        metrics: ServerMetrics,
        history: History | None = None,
        listeners: Sequence[Named] = (),
        bodies: Mapping[int, Frame] | None = None,
        clock: Callable[[], float] = time.monotonic,
        started_at: float | None = None,
        insecure: bool = False,
    ) -> None:
        self.machine = machine
        self.parameters = parameters
        self._insecure = insecure
        metrics.insecure(insecure=insecure)
        self._make_part = make_part
        self.metrics = metrics
        self.pool = pool
        self._history = history
        self._clock = clock
        self._started_at = clock() if started_at is None else started_at
        self._log = structlog.get_logger("ps")
        loop = asyncio.get_running_loop()

        self.finished = asyncio.Event()
        # The first fault of our own; it ends the server.
        self.failed: asyncio.Future[Failure] = loop.create_future()
        # Done when nothing is decided or made any more, because the state is no longer sound.
        self.broken: asyncio.Future[None] = loop.create_future()

        # Who watches.
        self.decisions = DecisionLog(self.uptime)
        self.observer = Observer(machine, parameters, metrics, self.decisions, self.now)
        self.feed = Feed(machine, self.status, self.observer.progress, self.decisions, self.uptime)
        own = [Named("observer", self.observer.took), Named("feed", self.feed.took)]
        first = [Named("history", self._record, delicate=True)] if history else []
        self.listeners = Listeners(metrics, [*first, *own, *listeners])

        # Who has asked, with what, and what has happened.
        self.bodies = Bodies(bodies or {})
        self.askers = Askers(loop, clock, first=self.bodies.highest + 1)
        self.readers = Readers(self._slow_reader_closed)
        self.pauses = Pauses()
        self.secrets = Secrets()
        self.background = Background(lambda name, error: self._fail_soundly(f"the task '{name}'", error))
        self._queue = EventQueue(self._take, self.fail)
        self._deadline = Deadline(loop, clock, lambda: self._queue.put(Tick()))

        # Who does it.
        self.publishing = Publishing(
            parameters,
            self.readers,
            self.observer,
            self.listeners,
            loop=loop,
            clock=clock,
            happen=self._queue.put,
            fail=self.fail,
            lose=self._fail_soundly,
        )
        self.offering = Offering(machine, parameters, self.bodies, self.publishing)
        self.tuning = Tuning(
            machine,
            parameters,
            self.publishing.appliers,
            self.observer,
            self.listeners,
            ask=self.ask,
            fail=self.fail,
        )
        self.pushing = Pushing(
            machine,
            parameters,
            self.bodies,
            self.publishing,
            self.observer,
            self.listeners,
            guard_mode=guard_mode,
            tuning=self.tuning,
            loop=loop,
            clock=clock,
            ask=self.ask,
        )

    # Events in.

    async def ask(self, message: Request, frame: Frame | None = None, norm: float | None = None) -> Outcome:
        """Hand a request to the machine and wait for its reply. `norm`: of its update, where that matters.

        Cancelled (the asker is gone), a parked request is forgotten; an accepted push is applied all the same.
        """
        if self.broken.done():
            return Outcome(_broken())
        request, outcome = self.askers.enter(message)
        if frame is not None:
            self.bodies.keep(request, frame)
        self._queue.put(Asked(request, message, norm))
        try:
            return await outcome
        except asyncio.CancelledError:
            if self.askers.leave(request):
                self._queue.put(Gone(request))
            raise

    def noticed_pause(self) -> bool:
        """The ticker has its turn: has the server stood still since its last one?"""
        if seconds := self.pauses.turn(self._clock()):
            self._queue.put(Paused(seconds))
        return self.pauses.recent

    def tick(self) -> None:
        now = self._clock()
        self.readers.close_late(now)
        self._queue.put(Tick())
        with self.listeners.guard("feed"):
            self.feed.tick()
        self.flush_history()

    def stop(self) -> None:
        """Answer every parked request; take none from now on."""
        self._queue.put(Stop())
        with self.listeners.guard("feed"):
            self.feed.stop()

    def _take(self, event: Event) -> None:
        now = self._clock()
        if seconds := self.pauses.look(now):
            self._step(Paused(seconds), now)
        self._step(event, now)

    def _step(self, event: Event, now: float) -> None:
        if isinstance(event, (Published, Failed)):
            self.publishing.publish(event)
        if isinstance(event, Paused):
            # Before the machine hears of it, so that nobody is closed, or charged with a wait, for this time.
            self.readers.paused(event.seconds, now)
            self.askers.paused(event.seconds, now)
        effects = self.machine.step(event, now)
        for effect in effects:
            # Before it is told: whoever hears of a group may ask for its values.
            if isinstance(effect, Create):
                self._create(effect.group)
        self.listeners.tell(event, effects, now)
        for effect in effects:
            self._do(effect)
        # Here, between what is done and what is told, is the place of whatever must be kept before it is told.
        for effect in effects:
            self._say(effect)
            if isinstance(effect, Pin):
                self.parameters[effect.group].versions.keep_only(effect.versions)
        self._deadline.set(self.machine.next_deadline)

    # Effects out.

    def _create(self, group: str) -> None:
        self.parameters[group] = self._make_part()
        self.publishing.begin(group)
        self.tuning.begin(group)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Apply():
                self.pushing.apply(effect)
            case Initialize():
                self.offering.initialize(effect)
            case Adopt():
                self.offering.adopt(effect)
            case Pin(group, versions):
                self.parameters[group].versions.keep(versions)
            case Configure(group, fields):
                self.tuning.configure(group, fields)
            case Drop(bodies):
                self.bodies.drop(bodies)
            case Finished():
                self.finished.set()

    def _say(self, effect: Effect) -> None:
        match effect:
            case Answered(request, reply):
                self._answer(request, reply)
            case Parked(request=request, reason=reason):
                if not self.askers.parked(request, reason):
                    # The asker went away while its push was being applied; nobody waits for the pull behind it.
                    self._queue.put(Gone(request))

    def _answer(self, request: int, reply: Reply) -> None:
        asking = self.askers.leave(request)
        if asking is None:
            return
        with self.listeners.guard("observer"):
            self.observer.answered(asking.message, reply, asking.waited_for, self._clock() - asking.since)
        granted = reply.pulled if isinstance(reply, PushPulled) else reply
        version = keys = None
        if isinstance(granted, Granted) and not granted.unchanged:
            assert isinstance(asking.message, (Pull, Push)), "only these are granted anything"
            version = self.parameters[asking.message.group].versions.of_number(granted.version.number)
            keys = self.machine.keys_of(asking.message.life)
        if isinstance(reply, Joined) and reply.replica is not None:
            reply = self.secrets.told(reply, asking.message)
        if not asking.outcome.done():
            asking.outcome.set_result(Outcome(reply, version, keys))

    # Faults of our own.

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
            self._queue.close()
            self.askers.end(Outcome(_broken()))
        if not self.failed.done():
            self.failed.set_result(failure)

    def _fail_soundly(self, what: str, error: BaseException) -> None:
        """The state is what it was before."""
        self.fail(what, error, state_is_sound=not self.broken.done())

    # The history, and questions.

    def begin_history(self, facts: Mapping[str, Any]) -> None:
        if self._history:
            with self.listeners.guard("history"):
                self._history.begin(facts)

    def flush_history(self) -> None:
        if self._history and "history" in self.listeners:
            with self.listeners.guard("history"):
                self._history.flush()

    def _record(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        assert self._history is not None
        self._history.record(now - self._started_at, event, effects)

    def status(self) -> dict[str, Any]:
        """The whole state, JSON-ready."""
        told = {"uptime_seconds": round(self.uptime(), 3), "insecure": self._insecure}
        return self.observer.status(self._clock()) | told

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
        # Where workers make parts, the groups that they leave empty are none that anybody waits for.
        needed = [group for group in self.machine.groups.values() if group.live_workers or not self.machine.parts]
        empty = [group.name for group in needed if not group.readable]
        return f"no parameters yet in {', '.join(empty)}" if empty else None

    def _slow_reader_closed(self) -> None:
        with self.listeners.guard("observer"):
            self.observer.slow_reader_closed()


def _broken() -> Refused:
    return refuse(Code.STOPPING, "the server stops after a fault of its own, which its log tells; ask when it is back")
