"""What the history of a run does not tell, checked after every event of the server and every step of a worker: that
nobody waits who could go on, that leases and waits are as long as they are, that the machine's state is the one that
follows from its history, and that what a worker believes is true. What a history tells is judged by
`tests/guarantees.py`, row by row.

The one rule: nothing is believed because the machine says so. Whether a waiter could go on, or a lease is over, is
worked out here once more.
"""

import math
from copy import deepcopy
from dataclasses import dataclass, field

from leeway.protocol.membership import Departed, Join, Joined
from leeway.protocol.pulls import Granted, NotYet
from leeway.protocol.pushes import Disposition, Push, PushPulled, Staged, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.ps.core.effects import (
    Accepted,
    Answered,
    Apply,
    Began,
    Drop,
    Ended,
    Finished,
    Forgotten,
    Initialize,
    Parked,
    RoundClosed,
)
from leeway.ps.core.events import Asked, Failed, Gone, Paused, Stop, Tick
from leeway.ps.watching.history import plain
from tests.guarantees import Checker, must

LifeName = tuple[str, int]
# A process of a life: with the stage of a replica, or None.
SeatName = tuple[str, int, int | None]


@dataclass
class Facts:
    """What has become of updates, by their own numbers (their `samples`), in the history that survives: saved with the
    server's state, and restored with it.
    """

    # The group and the version that it went into.
    applied: dict[int, tuple[str, int]] = field(default_factory=dict)
    # Accepted, and in no version: its step failed, or its round had too few.
    unmade: set[int] = field(default_factory=set)
    # By body.
    held: dict[int, int] = field(default_factory=dict)
    # By rank of a replica: how many batches of it were accepted, which is the number of its next one.
    batches: dict[str, int] = field(default_factory=dict)
    begun: bool = False


class Invariants:
    """`specs`: by group, what its keys are; all groups of the run are named there, also those that workers make."""

    def __init__(self, settings, specs) -> None:
        self.settings = settings
        self.specs = specs
        self.checker = Checker()
        # The history so far.
        self.rows: list[dict] = []
        self.facts = Facts()
        # Of this server process.
        self.open: dict[int, object] = {}
        self.parked: dict[int, tuple[object, float, Reason]] = {}
        self.bodies: dict[int, Push] = {}
        self.heard: dict[SeatName, float] = {}
        # Stages that wait for their replica to begin, by rank and stage; those that have said goodbye before its end.
        self.sitting: dict[tuple[str, int], float] = {}
        self.left: set[SeatName] = set()
        self.missed: set[LifeName] = set()
        # By iteration of a replica: the batch that it is of.
        self.batches: dict[tuple, int] = {}
        self.granted_under: dict[tuple[str, LifeName], tuple[int, str, int | None]] = {}
        self.epoch = 1
        self.stopped = self.finished = False
        self.ends_at = math.inf if settings.until_seconds is None else settings.until_seconds
        # Whether members and policy have been the same since the first grant, so that staleness is bounded; known of
        # runs of one group.
        self.fixed: int | None = None if len(specs) == 1 else -1
        self.fixed_mode: tuple[str, int | None] = ("", None)
        self.largest_staleness = 0
        # Of the workers, by process and group.
        self.adopted: dict[tuple[str, str], tuple[int, int]] = {}
        self.in_hand: dict[tuple[str, str], tuple[int, object]] = {}

    @property
    def known(self):
        """The groups, as they follow from the history."""
        return self.checker.groups

    @property
    def lives(self) -> dict[str, int]:
        return self.checker.live

    # The server.

    def event(self, event, effects, machine, now: float) -> None:
        for message in self.open.values():
            life = getattr(message, "life", None)
            if life is None or (life.rank, life.incarnation) not in self.missed:
                self._renewed_by(message, now)  # until this moment it had a request open, which is not silence
        for name, group in machine.groups.items():
            keys = {spec.name for spec in self.specs.get(name, ())}
            must(group.specs.keys() <= keys, "all declare one model, and no other is there", keys=list(group.specs))
        match event:
            case Asked(request, message):
                if isinstance(message, Join) and not _is_refused(request, effects):
                    self._sits(message, now)
                self._asked(request, message, now)
            case Paused(seconds):
                self._paused(seconds, now)
            case Gone(request):
                self._renewed_by(self.open.pop(request, None), now)
                self.parked.pop(request, None)
            case Failed():
                self._failed(event)
            case Stop():
                self.stopped = True
        for effect in effects:
            self._effect(effect, now)
        if effects or not isinstance(event, Tick):
            row = {"t": now, "event": plain(event), "effects": [plain(effect) for effect in effects]}
            self.judge(row)
        for effect in effects:
            if isinstance(effect, Answered):
                self._answered(effect, now)
        self.facts.begun = all(name in self.known and self.known[name].started for name in self.specs)
        for name, group in machine.groups.items():
            self._state(group, self.known[name])
        self._deadline(machine)
        self._bound()
        if isinstance(event, Tick):
            self._leases(machine, now)
        self._forming(machine, now)
        self._bodies(machine)
        for known in self.known.values():
            self._rounds(known)
        self._waiters(now, isinstance(event, Tick))
        self._find_missed(now)
        over = any(known.over for known in self.known.values())
        must(over or self.finished or now < self.ends_at or not isinstance(event, Tick), "the run is over in time")
        must(self.finished or self.stopped or not self.checker.is_over, "the run is over when every group is")

    def judge(self, row: dict) -> None:
        self.rows.append(row)
        self.checker.take(row)

    def _asked(self, request: int, message, now: float) -> None:
        self.open[request] = message
        if isinstance(message, Push):
            self.bodies[request] = message
        if not isinstance(message, Join):
            self._renewed_by(message, now)

    def _renewed_by(self, message, now: float) -> None:
        if life := getattr(message, "life", None):
            self._renewed(life, now)
        elif isinstance(message, Join):
            self._sits(message, now)

    def _sits(self, join: Join, now: float) -> None:
        if join.place and not self.stopped:
            self.sitting[join.rank, join.place.stage] = now

    def _renewed(self, life, now: float) -> None:
        name = (life.rank, life.incarnation, life.stage)
        if not self.stopped and life.epoch == self.epoch and self.lives.get(life.rank) == life.incarnation:
            self.heard[name] = now

    def _seats(self, rank: str, incarnation: int) -> list[SeatName]:
        return [seat for seat in self.heard if seat[:2] == (rank, incarnation)]

    def _paused(self, seconds: float, now: float) -> None:
        """What lies within the pause is as if it were now, all before is later by so much."""
        self.ends_at = min(self.ends_at + seconds, now + (self.settings.until_seconds or math.inf))
        self.heard = {seat: min(at + seconds, now) for seat, at in self.heard.items()}
        self.sitting = {seat: min(at + seconds, now) for seat, at in self.sitting.items()}
        self.parked = {
            request: (ask, min(since + seconds, now), reason) for request, (ask, since, reason) in self.parked.items()
        }

    def _effect(self, effect, now: float) -> None:
        match effect:
            case Began(rank, incarnation, None):
                self.heard[rank, incarnation, None] = now
                self.fixed = None if self.fixed is None else -1
            case Began(rank, incarnation, stages):
                for stage in range(stages):
                    self.heard[rank, incarnation, stage] = self.sitting.pop((rank, stage), now)
                self.fixed = None if self.fixed is None else -1
            case Ended(rank, incarnation, reason):
                seats = self._seats(rank, incarnation)
                silent = now - min(self.heard.pop(seat) for seat in seats if seat not in self.left)
                silent_enough = reason is not Reason.LEASE_EXPIRED or silent >= self.settings.lease_seconds - 1e-6
                must(silent_enough, "only the silent are evicted", rank=rank, silent=silent)
                self.fixed = None if self.fixed is None else -1
            case Forgotten(rank, stage) if stage in self.checker.seats.asked.get(rank, {}):
                must(not self._is_heard_of(rank, stage, now), "only the silent are forgotten", rank=rank, stage=stage)
            case Apply():
                for contribution in effect.contributions:
                    for body in contribution.bodies:
                        self.bodies.pop(body, None)
                        self.facts.held.pop(body, None)
                    self.facts.applied[contribution.samples] = (effect.group, effect.number)
                if self.fixed and self.fixed > 0 and not effect.aggregated:
                    self.largest_staleness = max(self.largest_staleness, effect.staleness)
            case Initialize():
                self.fixed = None if self.fixed is None else -1
            case Drop(bodies):
                for body in bodies:
                    push = self.bodies.pop(body, None)
                    if push is not None and push.kind is not UpdateKind.SKIP:
                        must(body not in self.facts.held, "an accepted update is never dropped", update=push.samples)
            case Parked(request, reason=reason):
                self.parked[request] = (self.open[request], now, reason)
            case Accepted(request):
                self._batch(self.open[request])
                self._no_longer_parked(effect)
            case RoundClosed(needed=int()):
                name = (effect.group, effect.number)
                held = {body for body, push in self.bodies.items() if (push.group, push.round) == name and push.samples}
                self.facts.unmade |= {self.bodies[body].samples for body in held}
                for body in held:
                    self.facts.held.pop(body, None)
            case Finished():
                self.finished = True

    def _batch(self, push: Push) -> None:
        """The batches of a replica are accepted one after the other, over all its lives."""
        if push.life.stage is not None:
            rank = push.life.rank
            batch, due = self.batches[iteration_of(push)], self.facts.batches.get(rank, 0)
            must(batch == due, "no batch is lost or counted twice", push=push, batch=batch, due=due)
            self.facts.batches[rank] = due + 1

    def _no_longer_parked(self, accepted: Accepted) -> None:
        """All parts are there: their requests wait for the step, as that of a worker's push does."""
        name = (accepted.rank, accepted.clock)
        for request, (message, _, reason) in list(self.parked.items()):
            waits = reason is Reason.WAITING_FOR_STAGES and isinstance(message, Push)
            if waits and (message.life.rank, message.clock) == name:
                del self.parked[request]

    def _failed(self, event: Failed) -> None:
        """The version has nothing in it that was meant for it."""
        facts = self.facts
        for update in [update for update, made in facts.applied.items() if made == (event.group, event.number)]:
            del facts.applied[update]
            facts.unmade.add(update)

    @staticmethod
    def _state(group, known) -> None:
        """The machine stands where its history has led."""
        policy = group.policy_state()
        clocks = {member.rank: member.groups[group.name].clock for member in group.roster}
        must(clocks == known.clocks, "a clock goes on as the history says", machine=clocks, true=known.clocks)
        least = min(clocks.values(), default=known.min_clock)
        must(least == known.min_clock, "the min clock never decreases", was=known.min_clock, now=least)
        must(
            group.min_clock == least,
            "the min clock is the smallest clock of the living",
            machine=group.min_clock,
            true=least,
        )
        must(group.published == known.published, "a version is out when it is published", machine=group.published)
        mode = policy.terms.mode if policy.switching_at is None else "switching"
        must(mode == known.mode, "the policy is the one that was asked for", machine=policy, true=known.mode)

    def _deadline(self, machine) -> None:
        due = machine.next_deadline
        over = any(known.over for known in self.known.values())
        graces = [at for known in self.known.values() if (at := known.deadline) is not None]
        true = math.inf if self.stopped else min([*graces, math.inf if over else self.ends_at])
        true = None if true == math.inf else true
        as_it_is = due is true is None or (None not in (due, true) and abs(due - true) < 1e-6)
        must(as_it_is, "the machine wants to be called when a grace is over, or the run", machine=due, true=true)

    def _bound(self) -> None:
        """1: a clock that was advanced by a grant within the bound goes no further than one beyond it."""
        for (name, life), (clock, *mode) in list(self.granted_under.items()):
            known = self.known[name]
            now = known.clocks.get(life[0]) if self.lives.get(life[0]) == life[1] else None
            if now == clock:
                continue
            del self.granted_under[name, life]
            moved_on = life[0] in known.passed
            if now is not None and not moved_on and mode == [known.mode, known.bound] and known.mode == "ssp":
                farthest = known.min_clock + known.bound + 1
                must(now <= farthest, "the bound, after a push", life=life, clock=now, farthest=farthest)

    def _answered(self, effect: Answered, now: float) -> None:
        message = self.open.pop(effect.request)
        parked = effect.request in self.parked
        _, since, _ = self.parked.pop(effect.request, (message, now, None))
        reply = effect.reply
        if not (isinstance(message, Join) and isinstance(reply, Refused)):
            self._renewed_by(message, now)
        if isinstance(reply, PushPulled):
            reply = reply.pulled
        if isinstance(reply, NotYet):
            waited = reply.reason is Reason.REPLACED or now - since >= (message.wait_seconds or 0.0) - 1e-6
            must(waited, "a wait lasts as long as was asked for", request=message, waited=now - since)
        elif isinstance(reply, Staged) and parked:
            again = [one for one in self.open.values() if _is_same_part(one, message)]
            waited = now - since >= message.wait_seconds - 1e-6
            must(waited or again, "a wait lasts as long as was asked for", request=message, waited=now - since)
        elif isinstance(reply, Joined):
            self.heard[message.rank, reply.incarnation, message.place and message.place.stage] = now
        elif isinstance(reply, Departed) and self.lives.get(message.life.rank) == message.life.incarnation:
            self.left.add((message.life.rank, message.life.incarnation, message.life.stage))
        elif isinstance(reply, Granted) and getattr(message, "life", None):
            self._granted(message.group, message.life, reply.clock)

    def _granted(self, group: str, asking, clock: int) -> None:
        """1: with fixed members staleness is bounded."""
        mode = (self.known[group].mode, self.known[group].bound)
        life = (asking.rank, asking.incarnation)
        if asking.stage is None or self.granted_under.get((group, life), (None,))[0] != clock:
            # Of a replica the first stage waits for its turn.
            self.granted_under[group, life] = (clock, *mode)
        if self.fixed is None and self.lives:
            self.fixed = len(self.lives)
            self.fixed_mode = mode
        elif self.fixed and mode != self.fixed_mode:
            self.fixed = -1
        if self.fixed and self.fixed > 0 and mode[0] == "ssp":
            most = (2 * mode[1] + 1) * (self.fixed - 1)
            must(self.largest_staleness <= most, "staleness is bounded", found=self.largest_staleness, most=most)

    def _leases(self, machine, now: float) -> None:
        """7: silence longer than the lease is eviction, of each process by itself."""
        lease = self.settings.lease_seconds + 1e-6
        for rank, incarnation in self.lives.items():
            for seat in self._seats(rank, incarnation):
                silent = now - self.heard[seat]
                must(silent < lease or seat in self.left, "the dead are evicted", seat=seat, silent=silent)
        for rank, forming in machine.joins.forming.items():
            for stage in forming.seats:
                silent = now - self.sitting[rank, stage]
                must(silent < lease, "the dead are not waited for", rank=rank, stage=stage, silent=silent)

    def _forming(self, machine, now: float) -> None:
        """Who has asked for a place is there until its lease has run out."""
        if self.stopped or self.finished or self.checker.over:
            must(not machine.joins.forming, "nobody waits for what does not come", ranks=list(machine.joins.forming))
            return
        for rank, there in self.checker.seats.asked.items():
            forming = machine.joins.forming.get(rank)
            for stage in there:
                is_there = forming is not None and stage in forming.seats
                silent = not self._is_heard_of(rank, stage, now)
                must(is_there or silent, "a stage that has come is there", rank=rank, stage=stage)

    def _is_heard_of(self, rank: str, stage: int, now: float) -> bool:
        """Whether the lease of this stage, which waits for the others, runs on."""
        return now - self.sitting[rank, stage] < self.settings.lease_seconds - 1e-6

    def _find_missed(self, now: float) -> None:
        """7: whose requests are all parked, and who is waited for elsewhere, is heard of by heartbeats alone."""
        missed = set()
        for rank, incarnation in self.lives.items():
            waits = [known for known in self.known.values() if rank in known.waiting]
            mine = [message for message in self.open.values() if _is_of(message, rank, incarnation)]
            awaited = any(rank in known.awaited for known in self.known.values() if known not in waits)
            if waits and len(mine) == len(waits) and awaited:
                missed.add((rank, incarnation))
        for life in missed - self.missed:
            for seat in self._seats(*life):
                self.heard[seat] = now
        self.missed = missed

    def _bodies(self, machine) -> None:
        """Every body that has come in is staged, held, or has ended in exactly one step or drop."""
        groups = machine.groups.values()
        held = {body for group in groups for one in group.rounds.held.values() for body in one.bodies}
        staged = {body for group in groups for member in group.roster for body in _staged(member.groups[group.name])}
        self.facts.held = {body: self.bodies[body].samples for body in held if body in self.bodies}
        must(
            self.bodies.keys() == held | staged, "no body is forgotten, none is lost", open=set(self.bodies), held=held
        )

    def _rounds(self, known) -> None:
        """A round closes when nobody is missing, and the next opens when nothing stands in its way."""
        if self.stopped:
            return
        if known.open:
            must(known.mode == "sync", "away from sync no round is open")
            must(known.missing, "a round closes when nobody is missing", round=known.round)
            return
        over = known.over or (known.until is not None and known.next >= known.until)
        if known.mode not in ("sync", "switching") or known.in_flight or over:
            return
        there = [rank for rank, clock in known.clocks.items() if clock == known.next]
        enough = len(known.clocks) >= (1 if known.started else self.settings.workers)
        # The first round of a quorum waits for so many; a later one for nobody.
        quorum = len(known.clocks) if known.quorum is None else min(known.quorum, len(known.clocks))
        all_there = len(there) >= quorum or (known.mode == "sync" and known.quorum is not None)
        must(not (there and enough and all_there), "a round opens when all are there", round=known.next, there=there)

    def _waiters(self, now: float, ticked: bool) -> None:
        """6: nobody waits who could go on. 9: nobody waits when the server stops."""
        for message, since, reason in self.parked.values():
            must(not self.stopped, "nobody waits for a server that stops", request=message)
            if ticked:
                must(since + message.wait_seconds > now - 1e-6, "a wait ends in time", request=message)
            if isinstance(message, Join):
                asked = self.checker.seats.asked.get(message.rank, {})
                must(message.place.stage in asked, "who waits for the other stages is there", request=message)
                there = [stage for stage in asked if self._is_heard_of(message.rank, stage, now)]
                must(len(there) < message.place.stages, "no forgotten waiter", request=message)
                continue
            rank = message.life.rank
            must(self.lives.get(rank) == message.life.incarnation, "the ended do not wait", request=message)
            known = self.known[message.group]
            if reason is Reason.WAITING_FOR_STAGES:
                must(known.clocks[rank] == message.clock, "no forgotten waiter", request=message)
                continue
            must(not self._could_go_on(known, rank), "no forgotten waiter", request=message)
            granted = message.life.stage is not None and known.grants.get(rank)
            must(not granted, "no forgotten waiter: another stage has gone on", request=message)
            must(not known.is_behind(rank), "whose round has closed is moved on", request=message)

    @staticmethod
    def _could_go_on(known, rank: str) -> bool:
        clock = known.clocks[rank]
        if not known.readable or known.owed.get(rank, 0) > known.published:
            return False
        if known.mode == "switching":
            return clock < known.switching_at
        if known.mode == "sync":
            return known.open and rank in known.missing
        if not known.all_have_joined:
            return False
        return known.mode == "async" or clock - known.min_clock <= known.bound

    # Saving: what survives is what was true at the save, with all that was being made.

    def snapshot(self) -> Facts:
        return deepcopy(self.facts)

    def restarted(self, facts: Facts, machine, bodies: dict[int, Push], now: float) -> None:
        """The server is back with the state that belongs to these facts."""
        self.facts = deepcopy(facts)
        self.open, self.parked = {}, {}
        self.bodies = dict(bodies)
        self.facts.held = {body: push.samples for body, push in bodies.items()}
        self.epoch = machine.epoch
        self.stopped = self.finished = False
        self.ends_at = now + (self.settings.until_seconds or math.inf)
        self.fixed = -1
        self.granted_under, self.missed = {}, set()
        lives = {member.rank: member.number for member in machine.membership.live()}
        seats = [(member, seat) for member in machine.membership.live() for seat in member.seats]
        self.heard = {(member.rank, member.number, seat.stage): now for member, seat in seats}
        self.sitting = {}
        self.left = {(member.rank, member.number, seat.stage) for member, seat in seats if seat.left}
        must(lives == self.lives, "saved workers are live again", saved=self.lives, restored=lives)

    # The workers.

    def computes(self, iteration: tuple, batch: int) -> None:
        """A stage computes: all of its replica do from the same batch."""
        must(self.batches.setdefault(iteration, batch) == batch, "all stages compute one batch", of=iteration)

    def stage_is_told(self, stage, number: int, disposition) -> None:
        """What a stage believes of its replica's update is true, in the history that survives."""
        kept = number in self.facts.applied or number in self.facts.held.values()
        if disposition in (Disposition.APPLIED, Disposition.HELD):
            lost = number in stage.world.lost_updates or number in self.facts.unmade
            must(kept or lost, "an accepted update is there", stage=stage.name, update=number)
        else:
            must(not kept, "a dropped update is not there", stage=stage.name, update=number)

    def began_update(self, process, number: int) -> None:
        """The worker hands in update `number`: from now on it has one outcome to come."""
        name = (process.name, process.conversation.group)
        must(name not in self.in_hand, "an update is in hand until its end is known", process=name)
        self.in_hand[name] = (number, process.conversation.outcome)

    def heard_by(self, process) -> None:
        for conversation in process.conversations:
            self._conversation(process, conversation)

    def _conversation(self, process, conversation) -> None:
        name = (process.name, conversation.group)
        if conversation.grant is not None:
            version = conversation.grant.version
            seen, self.adopted[name] = self.adopted.get(name, (0, 0)), (version.epoch, version.number)
            must(self.adopted[name] >= seen, "a worker never goes back", process=name, was=seen)
        if name in self.in_hand:
            number, before = self.in_hand[name]
            if conversation.outcome is not None and conversation.outcome is not before:
                del self.in_hand[name]
                self._outcome(process, number, conversation.outcome)

    def _outcome(self, process, number: int, outcome) -> None:
        """What the worker believes of its update is true, in the history that survives."""
        kept = number in self.facts.applied or number in self.facts.held.values()
        if outcome.disposition in (Disposition.APPLIED, Disposition.HELD):
            lost = number in process.world.lost_updates or number in self.facts.unmade
            told = outcome.reason in (Reason.STEP_FAILED, Reason.TOO_FEW_UPDATES)
            must(kept or lost or told, "an accepted update is there", process=process.name, outcome=outcome)
        elif outcome.disposition is None and outcome.reason != "left":
            must(not kept, "a dropped update is not there", process=process.name, outcome=outcome, update=number)


def iteration_of(push: Push) -> tuple:
    """What the stages of a replica compute together: nothing of it is in another life, epoch, or version."""
    return (push.life.rank, push.life.epoch, push.life.incarnation, push.clock, push.version, push.round)


def _is_refused(request: int, effects) -> bool:
    """At once: who has waited, be it for this one event, had its place."""
    first = next(one for one in effects if isinstance(one, (Answered, Parked)) and one.request == request)
    return isinstance(first, Answered) and isinstance(first.reply, Refused)


def _is_same_part(message, push: Push) -> bool:
    return isinstance(message, Push) and (message.life, message.clock, message.part) == (
        push.life,
        push.clock,
        push.part,
    )


def _staged(progress):
    return [part.request for part in progress.staged.values()]


def _is_of(message, rank: str, incarnation: int) -> bool:
    life = getattr(message, "life", None)
    return life is not None and (life.rank, life.incarnation) == (rank, incarnation)
