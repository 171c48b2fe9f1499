"""The guarantees of the contract, checked after every event of the server and every step of a worker.

The one rule: nothing is believed because the machine says so. What it answered, applied and dropped is written down
here from its effects; whether a waiter could go on, or a lease is over, is worked out here once more.
"""

from copy import deepcopy
from dataclasses import dataclass, field

from leeway.protocol.membership import Joined
from leeway.protocol.pulls import Granted, NotYet
from leeway.protocol.pushes import Disposition, Push, Pushed, PushPulled, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.ps.core.effects import (
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
)
from leeway.ps.core.events import Asked, Failed, Gone, Paused, Published, Stop, Tick

LifeName = tuple[str, int]


class Violation(AssertionError):
    """A guarantee is broken; the text says which."""


def must(condition, guarantee: str, **facts) -> None:
    if not condition:
        known = ", ".join(f"{name}={value}" for name, value in facts.items())
        raise Violation(f"{guarantee}: {known}")


@dataclass
class Facts:
    """What has become of things, in the history that survives: saved with the server's state, and restored with it."""

    lives: dict[str, int] = field(default_factory=dict)
    # Ranks that have ever joined.
    joined: set[str] = field(default_factory=set)
    # Each update by its own number (its `samples`): the version it went into.
    applied: dict[int, int] = field(default_factory=dict)
    # (rank, incarnation, clock) -> what was told of that push.
    told: dict[tuple[str, int, int], tuple] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    # Updates whose step failed; and of each life the iteration whose contribution was held for a step that failed.
    failed: set[int] = field(default_factory=set)
    failed_round: dict[LifeName, int] = field(default_factory=dict)
    # Of each life the iteration whose contribution was held in a round with too few updates.
    too_few: dict[LifeName, int] = field(default_factory=dict)
    # The versions that brought keys.
    offers: set[int] = field(default_factory=set)
    # The newest version with an update of this life in it.
    own: dict[LifeName, int] = field(default_factory=dict)
    # Whose update this is, of which iteration, and whether it was held in a round.
    names: dict[int, tuple[LifeName, int, bool]] = field(default_factory=dict)
    min_clock: int = 0
    round: tuple[int, dict[str, int]] | None = None
    held: dict[int, int] = field(default_factory=dict)
    # Whether anybody was ever granted, or a round opened: then the run no longer waits for its first workers.
    begun: bool = False


class Invariants:
    def __init__(self, settings) -> None:
        self.settings = settings
        self.facts = Facts()
        # Of this server process.
        self.open: dict[int, object] = {}
        self.parked: dict[int, tuple[object, float]] = {}
        self.bodies: dict[int, Push | None] = {}
        self.in_flight: dict[int, LifeName | None] = {}
        self.clocks: dict[LifeName, int] = {}
        self.heard: dict[LifeName, float] = {}
        self.seen: dict[LifeName, int] = {}
        self.granted_under: dict[LifeName, tuple[str, int | None]] = {}
        self.epoch = 1
        self.stopped = self.finished = False
        # Whether members and policy have been the same since the first grant, so that staleness is bounded.
        self.fixed: int | None = None
        self.fixed_mode: tuple[str, int | None] = ("", None)
        self.largest_staleness = 0
        # Of the workers.
        self.adopted: dict[str, tuple[int, int]] = {}
        self.in_hand: dict[str, tuple[int, object]] = {}

    # The server.

    def event(self, event, effects, machine, now: float) -> None:
        group = machine.groups["default"]
        policy = group.policy_state()
        mode = (policy.terms.mode, policy.terms.staleness) if policy.switching_at is None else ("switching", None)
        for message in self.open.values():
            if life := getattr(message, "life", None):
                self._renewed(life, now)  # until this moment it had a request open, which is not silence
        must(group.specs.keys() <= {"weight"}, "all declare one model, and no other is there", keys=list(group.specs))
        match event:
            case Asked(request, message):
                self._asked(request, message, now)
            case Paused(seconds):
                self._paused(seconds, now)
            case Gone(request):
                self.open.pop(request, None)
                self.parked.pop(request, None)
            case Published(_, number):
                self.in_flight.pop(number)
            case Failed(_, number):
                self.in_flight.pop(number)
                self._failed(number)
            case Stop():
                self.stopped = True
        for effect in effects:
            self._effect(effect, now)
        # Grants are judged by the state that the event has led to.
        clocks = {(one.rank, one.number): one.groups["default"].clock for one in group.roster}
        self._clocks(event, clocks, group.min_clock, mode)
        for effect in effects:
            if isinstance(effect, Answered):
                self._answered(effect, clocks, group, mode, now)
        if isinstance(event, Tick):
            self._leases(now)
        self._bodies(group)
        self._rounds(clocks, group, policy)
        self._waiters(clocks, group, policy, now, isinstance(event, Tick))

    def _asked(self, request: int, message, now: float) -> None:
        must(request not in self.open, "request numbers are used once", request=request)
        self.open[request] = message
        if isinstance(message, Push):
            self.bodies[request] = message
        life = getattr(message, "life", None)
        if life:
            self._renewed(life, now)

    def _renewed(self, life, now: float) -> None:
        name = (life.rank, life.incarnation)
        if not self.stopped and life.epoch == self.epoch and self.facts.lives.get(life.rank) == life.incarnation:
            self.heard[name] = now

    def _paused(self, seconds: float, now: float) -> None:
        """What lies within the pause is as if it were now, all before is later by so much."""
        self.heard = {life: min(at + seconds, now) for life, at in self.heard.items()}
        self.parked = {request: (ask, min(since + seconds, now)) for request, (ask, since) in self.parked.items()}

    def _effect(self, effect, now: float) -> None:
        facts = self.facts
        match effect:
            case Began(rank, incarnation):
                must(rank not in facts.lives, "a rank has one life", rank=rank)
                facts.lives[rank] = incarnation
                facts.joined.add(rank)
                self.heard[rank, incarnation] = now
                self.fixed = None if self.fixed is None else -1
            case Ended(rank, incarnation, reason):
                silent = now - self.heard[rank, incarnation]
                silent_enough = reason is not Reason.LEASE_EXPIRED or silent >= self.settings.lease_seconds - 1e-6
                must(silent_enough, "only the silent are evicted", rank=rank, silent=silent)
                must(facts.lives.pop(rank, None) == incarnation, "only the living die", rank=rank)
                self.fixed = None if self.fixed is None else -1
            case Apply():
                self._applied(effect)
            case Initialize():
                self.in_flight[effect.number] = None
                facts.offers.add(effect.number)
                self.fixed = None if self.fixed is None else -1
            case Drop(bodies):
                for body in bodies:
                    push = self.bodies.pop(body, None)
                    if push is not None and push.kind is not UpdateKind.SKIP:
                        known = body in facts.held
                        must(not known, "an accepted update is never dropped", update=push.samples)
            case Parked(request):
                self.parked[request] = (self.open[request], now)
            case RoundOpened(_, number, members):
                facts.begun = True
                facts.round = (number, {rank: facts.lives[rank] for rank in members})
            case RoundClosed(_, number, contributors, _, needed):
                must(facts.round and facts.round[0] == number, "a round closes once", number=number)
                facts.round = None
                least = self.settings.groups[0].least_updates
                too_few = 0 < len(contributors) < least
                must(needed == (least if too_few else None), "too few make no step", of=contributors, needed=needed)
                if too_few:
                    self._without_step(number)
            case Finished():
                must(not self.in_flight and not facts.held, "the end comes when all is applied")
                self.finished = True

    def _without_step(self, number: int) -> None:
        """This round makes no step: its updates were accepted, and are in no version."""
        for body, push in self.bodies.items():
            if push is not None and push.round == number and push.kind is not UpdateKind.SKIP:
                self.facts.held.pop(body, None)
                self.facts.failed.add(push.samples)
                self.facts.too_few[push.life.rank, push.life.incarnation] = push.clock

    def _applied(self, effect: Apply) -> None:
        """3, exactly once: an update is in one step at most, and every body ends once."""
        facts = self.facts
        least = self.settings.groups[0].least_updates if effect.aggregated else 1
        must(len(effect.contributions) >= least, "a step has the updates that its rule needs", step=effect)
        who = None
        for one in effect.contributions:
            for body in one.bodies:
                push = self.bodies.pop(body, None)
                must(push is not None, "a body is used once", body=body, step=effect)
                facts.held.pop(body, None)
            must(push.samples not in facts.applied, "an update is applied at most once", update=push, step=effect)
            must((one.rank, one.samples) == (push.life.rank, push.samples), "updates keep their weight", step=effect)
            facts.applied[push.samples] = effect.number
            facts.names[push.samples] = ((push.life.rank, push.life.incarnation), push.clock, effect.aggregated)
            who = (push.life.rank, push.life.incarnation)
            facts.own[who] = effect.number
        must(effect.number == group_next(self.in_flight, effect.number), "versions grow by one", step=effect)
        self.in_flight[effect.number] = None if effect.aggregated else who
        if self.fixed and self.fixed > 0 and not effect.aggregated:
            self.largest_staleness = max(self.largest_staleness, effect.staleness)

    def _failed(self, number: int) -> None:
        """Version `number` has nothing in it that was meant for it."""
        facts = self.facts
        facts.offers.discard(number)
        for update in [update for update, version in facts.applied.items() if version == number]:
            del facts.applied[update]
            facts.failed.add(update)
            life, clock, held = facts.names[update]
            if held:
                facts.failed_round[life] = clock

    def _clocks(self, event, clocks, min_clock: int, mode) -> None:
        """A clock goes up by one, by an own push; the min clock never goes back. 1: the advance is bounded."""
        least = min(clocks.values(), default=min_clock)
        must(min_clock == least, "the min clock is the smallest clock of the living", told=min_clock, true=least)
        must(
            min_clock >= self.facts.min_clock, "the min clock never decreases", was=self.facts.min_clock, now=min_clock
        )
        self.facts.min_clock = min_clock
        for life, clock in clocks.items():
            before = self.clocks.get(life)
            if before is None or before == clock:
                continue
            must(clock == before + 1, "a clock goes on by one", life=life, was=before, now=clock)
            if isinstance(event, Asked):
                mine = isinstance(event.message, Push) and event.message.life.rank == life[0]
                must(mine and event.message.clock == before, "a clock goes on by its own push", life=life)
                if event.message.kind is not UpdateKind.SKIP:
                    must(mode[0] == "sync", "an eager clock goes on when its version is published", life=life)
            else:
                must(isinstance(event, (Published, Failed)), "a clock goes on by its own push", life=life)
            under = self.granted_under.pop(life, None)
            if under == mode and mode[0] == "ssp":
                must(
                    clock <= min_clock + mode[1] + 1, "the bound, after a push", life=life, clock=clock, least=min_clock
                )
        self.clocks = clocks

    def _answered(self, effect: Answered, clocks, group, mode, now: float) -> None:
        must(effect.request in self.open, "a request is answered once, and only while it is there", reply=effect)
        message = self.open.pop(effect.request)
        _, since = self.parked.pop(effect.request, (message, now))
        reply = effect.reply
        if isinstance(reply, PushPulled):
            self._pushed(message, reply.pushed, group)
            reply = reply.pulled
        if isinstance(reply, Pushed):
            self._pushed(message, reply, group)
        elif isinstance(reply, NotYet):
            waited = reply.reason is Reason.REPLACED or now - since >= (message.wait_seconds or 0.0) - 1e-6
            must(waited, "a wait lasts as long as was asked for", request=message, waited=now - since)
        elif isinstance(reply, Joined):
            self.heard[message.rank, reply.incarnation] = now
        elif isinstance(reply, Granted) and getattr(message, "life", None):
            self._granted(message, reply, clocks, group, mode)

    def _pushed(self, push: Push, pushed: Pushed, group) -> None:
        """3: every reply carries the same disposition. 10: what is acknowledged is published, or held."""
        facts = self.facts
        name = (push.life.rank, push.life.incarnation, push.clock)
        told = (pushed.disposition, pushed.version, pushed.staleness)
        must(facts.told.setdefault(name, told) == told, "a disposition is told once and for ever", push=name, told=told)
        must(pushed.clock == push.clock, "a reply is about its push", push=push, reply=pushed)
        if push.kind is not UpdateKind.SKIP and pushed.disposition is not Disposition.SKIPPED:
            facts.acknowledged.add(push.samples)
        if pushed.disposition is Disposition.APPLIED:
            must(pushed.version <= group.published, "acknowledged means published", push=push, reply=pushed)
            must(facts.applied.get(push.samples) == pushed.version, "acknowledged means applied", push=push)
        elif pushed.disposition is Disposition.HELD:
            kept = push.samples in facts.applied or push.samples in facts.held.values() or self._holds(group, push)
            must(kept or push.samples in facts.failed, "held means kept", push=push)

    def _holds(self, group, push: Push) -> bool:
        return any(held.samples == push.samples for held in group.rounds.held.values())

    def _granted(self, message, granted: Granted, clocks, group, mode) -> None:
        """1: the bound. 5: own writes are read, and versions never go back."""
        life = (message.life.rank, message.life.incarnation)
        version, clock = granted.version.number, clocks.get(life)
        must(clock is not None, "only the living are granted", life=life)
        asked = message.clock + 1 if isinstance(message, Push) else message.clock
        must(
            granted.clock == clock == asked, "a grant is for the iteration that was asked for", life=life, grant=granted
        )
        if mode[0] in ("async", "ssp"):
            must(self._all_have_joined(), "nobody begins before all have joined", life=life)
        lag = clock - min(clocks.values())
        must(granted.lag == lag, "the lag is told as it is", life=life, told=granted.lag, true=lag)
        if mode[0] == "ssp":
            must(lag <= mode[1], "the bound, at a pull", life=life, lag=lag, bound=mode[1])
        failed = self.facts.failed_round.get(life) == clock - 1
        must(granted.step_failed == failed, "a contributor is told that its step has failed", life=life, failed=failed)
        too_few = self.facts.too_few.get(life) == clock - 1
        must(granted.too_few == too_few, "a contributor is told of too few updates", life=life, too_few=too_few)
        must(version == group.published > 0, "pulls read the newest version", life=life, version=version)
        must(version >= self.facts.own.get(life, 0), "a worker reads its own writes", life=life, version=version)
        must(version >= self.seen.get(life, 0), "versions never go back", life=life, version=version)
        if granted.round is not None:
            number, members = self.facts.round or (None, {})
            must(number == granted.round == clock, "a grant is for the open round", life=life, round=number)
            must(members.get(life[0]) == life[1], "only members read in a round", life=life)
        self.seen[life] = version
        self.facts.begun = True
        self.granted_under[life] = mode
        if self.fixed is None and self.facts.lives and len(self.facts.lives) == len(clocks):
            self.fixed = len(clocks)
            self.fixed_mode = mode
        elif self.fixed and mode != self.fixed_mode:
            self.fixed = -1
        if self.fixed and self.fixed > 0 and mode[0] == "ssp":
            most = (2 * mode[1] + 1) * (self.fixed - 1)
            must(self.largest_staleness <= most, "staleness is bounded", found=self.largest_staleness, most=most)

    def _leases(self, now: float) -> None:
        """7: silence longer than the lease is eviction."""
        for rank, incarnation in self.facts.lives.items():
            silent = now - self.heard[rank, incarnation]
            must(silent < self.settings.lease_seconds + 1e-6, "the dead are evicted", rank=rank, silent=silent)

    def _bodies(self, group) -> None:
        """Every body that has come in is staged, held, or has ended in exactly one step or drop."""
        held = {body for one in group.rounds.held.values() for body in one.bodies}
        self.facts.held = {body: self.bodies[body].samples for body in held if body in self.bodies}
        must(self.bodies.keys() == held, "no body is forgotten, none is lost", open=set(self.bodies), held=held)

    def _rounds(self, clocks, group, policy) -> None:
        """A round closes when nobody is missing, and the next opens when nothing stands in its way."""
        if policy.terms.mode != "sync":
            must(self.facts.round is None, "away from sync no round is open")
            return
        if self.facts.round:
            number, members = self.facts.round
            waits_for = [rank for rank, life in members.items() if clocks.get((rank, life)) == number]
            must(waits_for, "a round closes when nobody is missing", round=number)
            return
        enough = len(clocks) >= (1 if self.facts.begun else self.settings.workers) and clocks
        until = self.settings.until
        if enough and not self.in_flight and len(set(clocks.values())) == 1:
            (number,) = set(clocks.values())
            may = policy.switching_at in (None, number) and (until is None or number < until)
            must(not may, "a round opens when all are there", round=number)

    def _waiters(self, clocks, group, policy, now: float, ticked: bool) -> None:
        """6: nobody waits who could go on. 9: nobody waits when the server stops."""
        for message, since in self.parked.values():
            must(not self.stopped, "nobody waits for a server that stops", request=message)
            if ticked:
                must(since + message.wait_seconds > now - 1e-6, "a wait ends in time", request=message)
            life = (message.life.rank, message.life.incarnation)
            must(life in clocks, "the ended do not wait", request=message)
            must(not self._could_go_on(life, clocks, group, policy), "no forgotten waiter", request=message)

    def _all_have_joined(self) -> bool:
        return len(self.facts.joined) >= self.settings.workers

    def _could_go_on(self, life: LifeName, clocks, group, policy) -> bool:
        clock = clocks[life]
        readable = any(number <= group.published for number in self.facts.offers)
        if not readable or self.facts.own.get(life, 0) > group.published:
            return False
        if policy.switching_at is not None:
            return clock < policy.switching_at
        if policy.terms.mode != "sync" and not self._all_have_joined():
            return False
        if policy.terms.mode == "ssp":
            return clock - min(clocks.values()) <= policy.terms.staleness
        if policy.terms.mode == "sync":
            number, members = self.facts.round or (None, {})
            return members.get(life[0]) == life[1] and clock == number
        return True

    # Saving: what survives is what was true at the save, with all that was being made.

    def snapshot(self) -> Facts:
        return deepcopy(self.facts)

    def restarted(self, facts: Facts, machine, bodies: dict[int, Push], now: float) -> None:
        """The server is back with the state that belongs to these facts."""
        self.facts = deepcopy(facts)
        self.open, self.parked, self.in_flight = {}, {}, {}
        self.bodies = dict(bodies)
        if machine.epoch != self.epoch:
            self.epoch = machine.epoch
            self.seen = {}
        self.stopped = self.finished = False
        self.fixed = -1
        self.granted_under = {}
        group = machine.groups["default"]
        self.clocks = {(one.rank, one.number): one.groups["default"].clock for one in group.roster}
        self.heard = dict.fromkeys(((rank, life) for rank, life in self.facts.lives.items()), now)
        lives = {one.rank: one.number for one in group.roster}
        must(lives == self.facts.lives, "saved workers are live again", saved=self.facts.lives, restored=lives)

    # The workers.

    def began_update(self, process, number: int) -> None:
        """The worker hands in update `number`: from now on it has one outcome to come."""
        must(process.name not in self.in_hand, "an update is in hand until its end is known", process=process.name)
        self.in_hand[process.name] = (number, process.conversation.outcome)

    def conversation(self, process) -> None:
        conversation = process.conversation
        if conversation.grant is not None:
            version = conversation.grant.version
            seen, self.adopted[process.name] = self.adopted.get(process.name, (0, 0)), (version.epoch, version.number)
            must(self.adopted[process.name] >= seen, "a worker never goes back", process=process.name, was=seen)
        if process.name in self.in_hand:
            number, before = self.in_hand[process.name]
            if conversation.outcome is not None and conversation.outcome is not before:
                del self.in_hand[process.name]
                self._outcome(process, number, conversation.outcome)

    def _outcome(self, process, number: int, outcome) -> None:
        """What the worker believes of its update is true, in the history that survives."""
        kept = number in self.facts.applied or number in self.facts.held.values()
        if outcome.disposition in (Disposition.APPLIED, Disposition.HELD):
            lost = number in process.world.lost_updates or number in self.facts.failed
            told = outcome.reason in (Reason.STEP_FAILED, Reason.TOO_FEW_UPDATES)
            must(kept or lost or told, "an accepted update is there", process=process.name, outcome=outcome)
        elif outcome.disposition is None and outcome.reason != "left":
            must(not kept, "a dropped update is not there", process=process.name, outcome=outcome, update=number)


def group_next(in_flight, number: int) -> int:
    """The number that the next version must have, when some are being made."""
    return max(in_flight, default=number - 1) + 1
