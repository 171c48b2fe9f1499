"""A process of a replica: one stage of a model, which computes together with the others and pushes its part.

The one rule: what is decided here is what a client of stages has to do, in the fewest words: whatever it is told of its
life's end, it drops the iteration and joins again under its own id; fenced, it stops. It stands for the real one.
"""

from dataclasses import replace
from enum import StrEnum

from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Departed, Heartbeat, Join, Joined, Leave
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Disposition, Push, Pushed, PushPulled, Staged, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.worker.session.states import Ending
from tests.known import Violated
from tests.simulation.invariants import iteration_of
from tests.simulation.mortal import Mortal

# Beyond the wait that the server was asked for: then the connection counts as dead.
PATIENCE_SECONDS = 2.0
AGAIN_SECONDS = 0.2

LATER = {Code.STOPPING, Code.BUSY, Code.INTERNAL, Code.STORAGE_FAILED}
# The iteration is dropped, and its life goes on, or begins anew.
DROP = {
    *(Code.OLD_EPOCH, Code.NOT_JOINED, Code.SUPERSEDED, Code.WRONG_CLOCK, Code.NOT_GRANTED),
    *(Code.STAGE_LOST, Code.STAGE_REPLACED, Code.EVICTED),
}
LIFE_IS_OVER = {Code.STAGE_LOST, Code.STAGE_REPLACED, Code.EVICTED, Code.FENCED, Code.LEFT}
STOP = {Code.FENCED, Code.LEFT}


class State(StrEnum):
    JOINING = "joining"
    ASKING = "asking"
    OFFERING = "offering"
    PULLING = "pulling"
    COMPUTING = "computing"
    PUSHING = "pushing"
    LEAVING = "leaving"
    ENDED = "ended"


class Stage(Mortal):
    """`rank`: as in `r0/1`. `specs`: of the whole model; what it owns of them is in its place."""

    def __init__(self, world, rank: str, name: str, place, specs, slow_seconds: float) -> None:
        super().__init__(world)
        self.rank, self.name, self.place, self.specs = rank, name, place, specs
        self.replica = rank.partition("/")[0]
        self.slow_seconds = slow_seconds
        self.wait_seconds = world.random.choice((None, 3.0, 6.0))
        self.state = State.JOINING
        self.ending: Ending | None = None
        self.life: Life | None = None
        # Of the newest life that it was in, to say goodbye while the next one forms.
        self.former: Life | None = None
        self.clock = self.batch = 0
        self.grant: Granted | None = None
        self.wanted: tuple = ()
        # The push in hand, until its end is known; and the number of the update.
        self.push: Push | None = None
        self.number: int | None = None
        self.asking: object = None
        self.conversations = ()
        self._last_sent = 0.0
        self.go_on()
        self._beat()

    def __str__(self) -> str:
        return f"{self.name} {self.state} {self.life}@{self.clock}"

    @property
    def ended(self) -> bool:
        return not self.alive or self.state is State.ENDED

    @property
    def endings(self) -> set[Ending | None]:
        return {self.ending}

    # What happens to a process.

    def leave(self) -> None:
        self.when_awake(self._leave)

    def _leave(self) -> None:
        if self.state is not State.ENDED:
            self._drop()
            self.state = State.LEAVING if self.life or self.former else State.ENDED
            self.go_on()

    # What it asks next.

    def _ask(self):
        wait = self.wait_seconds
        match self.state:
            case State.JOINING:
                return Join(self.replica, self.name, place=self.place, wait_seconds=wait)
            case State.ASKING:
                return Offer(self.specs, ask=True, whole=True, spread=True)
            case State.OFFERING:
                return Offer(self.wanted, spread=True)
            case State.PULLING:
                since = self.grant.version if self.grant else None
                return Pull(life=self.life, clock=self.clock, since=since, wait_seconds=wait)
            case State.PUSHING:
                return self.push
            case State.LEAVING:
                return Leave(self.life or self.former)

    def go_on(self, delay_seconds: float = 0.0) -> None:
        """Ask for what is next, unless it is asked already."""
        if self.asking is None and self.state not in (State.COMPUTING, State.ENDED):
            ask = self.asking = self._ask()
            if isinstance(ask, Push):
                ask = self.asking = replace(ask)  # another request each time
            self.world.clock.after(delay_seconds, lambda: self.when_awake(lambda: self._send(ask)))

    def _send(self, ask) -> None:
        if self.asking is not ask:
            return
        self._last_sent = self.world.clock.now
        self.world.send(self, ask)
        waits = getattr(ask, "wait_seconds", None) or 0.0
        self.world.clock.after(waits + PATIENCE_SECONDS, lambda: self.when_awake(lambda: self.lost(ask)))

    def lost(self, ask) -> None:
        if self.asking is ask:
            self.world.hang_up(self, ask)
            self._again()

    def _again(self) -> None:
        self.asking = None
        self.go_on(self.world.random.uniform(0.0, 2 * AGAIN_SECONDS))

    def _beat(self) -> None:
        if self.ended:
            return
        clock, every = self.world.clock, self.world.settings.lease_seconds / 3
        if self.life and clock.now - self._last_sent >= every and self.hung_until <= clock.now:
            self.world.send(self, Heartbeat(self.life))
        clock.after(every, self._beat)

    # What it is told.

    def hears(self, ask, reply) -> None:
        """A reply has come; maybe for the second time, maybe long after it was given up."""
        self.when_awake(lambda: self._hears(ask, reply))

    def _hears(self, ask, reply) -> None:
        if isinstance(ask, Heartbeat):
            if isinstance(reply, Refused) and ask.life == self.life and reply.error.code in DROP | STOP:
                self.asking = None
                self._refused(reply.error)
                self.go_on()
        elif ask is self.asking:
            self.asking = None
            self._take(reply)
            self.go_on()

    def _take(self, reply) -> None:
        match reply:
            case Joined():
                self._joined(reply)
            case Offered(wanted=wanted) if self.state is State.ASKING:
                owned = set(self.place.owned)
                self.wanted = tuple(spec for spec in self.specs if spec.name in owned.intersection(wanted))
                self.state = State.OFFERING if self.wanted else State.PULLING
            case Offered(wanted=wanted):
                self.state = State.ASKING if wanted else State.PULLING
            case Granted():
                self._granted(reply)
            case Pushed():
                self._pushed(reply)
            case PushPulled(pushed, pulled):
                self._pushed(pushed)
                self._take(pulled)
            case NotYet(reason=Reason.NO_PARAMETERS):
                self.state = State.ASKING
                self.go_on(AGAIN_SECONDS)
            case NotYet() | Staged():
                self.go_on(0.0 if self.wait_seconds else AGAIN_SECONDS)
            case Departed():
                self.state = State.ENDED
            case Refused(error):
                self._refused(error)

    def _joined(self, joined: Joined) -> None:
        group = joined.groups["default"]
        self._drop()
        self.life = self.former = Life(self.replica, joined.epoch, joined.incarnation, self.place.stage)
        self.clock, self.batch = group.clock, group.committed
        self.state = State.ASKING

    def _granted(self, granted: Granted) -> None:
        self.clock, self.grant, self.state = granted.clock, granted, State.COMPUTING
        random = self.world.random
        version, part = granted.version, self.place.stage
        push = Push(
            *(self.life, granted.clock, version.number, UpdateKind.GRADIENT),
            samples=1,
            round=granted.round,
            part=part,
            parts=self.place.stages,
            keys=self.place.owned,
            pull=random.random() < 0.6,
            wait_seconds=self.wait_seconds,
        )
        self.number = self.world.update_of(push)
        self.world.invariants.computes(iteration_of(push), self.batch)
        if random.random() < 0.05:
            self.push = replace(push, kind=UpdateKind.SKIP, samples=0, part=0, parts=1, keys=())
        else:
            self.push = replace(push, samples=self.number)
        seconds, mine = random.expovariate(1.0 / self.slow_seconds), self.push
        self.world.clock.after(seconds, lambda: self.when_awake(lambda: self._computed(mine)))

    def _computed(self, push: Push) -> None:
        if self.push is push and self.state is State.COMPUTING:
            self.state = State.PUSHING
            self.go_on()

    def _pushed(self, pushed: Pushed) -> None:
        self.world.invariants.stage_is_told(self, self.number, pushed.disposition)
        self.batch += 1
        self.clock = pushed.clock + 1 if pushed.next_clock is None else pushed.next_clock
        self.push = None
        self.state = State.PULLING

    def _refused(self, error) -> None:
        if error.code in LATER:
            self.go_on(AGAIN_SECONDS)
        elif self.state is State.LEAVING:
            self.state = State.ENDED
        elif error.code is Code.FINISHED:
            self._drop()
            self.ending = Ending.FINISHED
            self.state = State.LEAVING if self.life else State.ENDED
        elif error.code in DROP | STOP:
            self._end_of_life(error)
        else:
            raise Violated(f"no stage is told of a mistake: {self}, {error}") from error

    def _end_of_life(self, error) -> None:
        """The iteration is dropped, unless its push was accepted: a life's end says so."""
        last = error.facts.get("last", {}).get("default", {})
        if error.code in LIFE_IS_OVER and self.push and last and last["clock"] == self.push.clock:
            if last["disposition"] is not None:
                self.world.invariants.stage_is_told(self, self.number, Disposition(last["disposition"]))
        elif error.code in LIFE_IS_OVER and self.push and (not last or last["clock"] < self.push.clock):
            self.world.invariants.stage_is_told(self, self.number, None)
        self._drop()
        self.life = None
        self.state = State.ENDED if error.code in STOP else State.JOINING
        if error.code is Code.FENCED:
            self.ending = Ending.FENCED

    def _drop(self) -> None:
        self.push = None
        self.asking = None
