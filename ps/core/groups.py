"""One group: its keys, clocks, grants, rounds, versions and policy, and the requests that wait in it.

The one rule: every change of state happens in a method here and ends in `settle`, which answers whatever can now be
answered. A version's number is given when the decision falls (`decided`); readers see it when the arithmetic is done
(`published`). Invariant: published <= decided, and `in_flight` holds exactly the numbers between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.codes import Code
from leeway.protocol.reasons import Reason
from leeway.protocol.replies import (
    Disposition,
    Granted,
    GroupState,
    LastPush,
    NotYet,
    PolicyState,
    PushPulled,
    Staged,
    refuse,
)
from leeway.protocol.requests import Pull, UpdateKind
from leeway.protocol.schema import Sizes
from leeway.ps.core import policies
from leeway.ps.core.decisions import Answer, Park
from leeway.ps.core.effects import (
    Accepted,
    Adopt,
    Advanced,
    Answered,
    Apply,
    Contribution,
    Drop,
    Initialize,
    RoundClosed,
    RoundOpened,
    Switched,
    WaitingFor,
)
from leeway.ps.core.grants import grant, judge
from leeway.ps.core.in_flight import Adding, Adopting, InFlight, OnArrival, RoundStep
from leeway.ps.core.policies.policy import Reception
from leeway.ps.core.policies.switching import Switching
from leeway.ps.core.progress import Record
from leeway.ps.core.roster import Roster
from leeway.ps.core.rounds import Held, Rounds, RoundState
from leeway.ps.core.waiting import Waiting, WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from leeway.protocol.replies import Pushed, Refused
    from leeway.protocol.requests import Push
    from leeway.protocol.tensors import TensorSpec
    from leeway.ps.core.adoption import Adoption
    from leeway.ps.core.decisions import Decision
    from leeway.ps.core.effects import Effect
    from leeway.ps.core.in_flight import Offering
    from leeway.ps.core.membership import Incarnation
    from leeway.ps.core.policies.policy import Policy
    from leeway.ps.core.progress import Progress


class Group:
    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        epoch: int,
        workers: int,
        until: int | None,
        emit: Callable[[Effect], None],
        keys: tuple[str, ...] = ("*",),
        least_updates: int = 1,
        needs_rounds: bool = False,
    ) -> None:
        self.name = name
        # The patterns of the keys that it holds.
        self.keys = keys
        # What its aggregation rule asks for (`machine.GroupSettings`).
        self.least_updates, self.needs_rounds = least_updates, needs_rounds
        self.policy = policy
        self.epoch = epoch
        self.workers = workers
        self.until = until
        self.emit = emit
        self.rounds = Rounds()
        # Invariant: `sizes` is what `specs` take.
        self.specs: dict[str, TensorSpec] = {}
        self.sizes = Sizes()
        # No key is added any more: an update has been accepted; a worker has offered all of them (`whole`).
        self.schema_closed = False
        self.whole = False
        # The keys are those of a file of initial values, and no worker has said yet what they are in its model.
        self.from_file = False
        # Invariant: no worker is granted a version before this one, in which tensors had other names or kinds.
        self.named_from = 0
        # What they are called in the version that is computed, while others are being given.
        self._named: Mapping[str, TensorSpec] = {}
        self.started = False
        # The ranks that have ever joined, until `workers` of them have: whether they still live does not matter.
        self.arrived: set[str] = set()
        self.assembled = False
        self.decided = 0
        self.published = 0
        # Whether there is anything to read: a first offer whose step failed leaves a version without keys.
        self.readable = False
        self.in_flight: dict[int, InFlight] = {}
        self.roster = Roster(name)
        self.waiting = WaitingRoom(name, emit)
        self._settled: object = None
        # Who is waited for, as it was told last; and whether something else than `_settled` may have changed that.
        self._waited_for: tuple[str, ...] = ()
        self._doubtful = False
        self._left = 0

    # What a policy may see (policies.policy.View).

    @property
    def min_clock(self) -> int:
        return self.roster.clocks.minimum

    @property
    def max_clock(self) -> int:
        return self.roster.clocks.maximum

    @property
    def live_workers(self) -> int:
        return len(self.roster)

    @property
    def workers_to_start(self) -> int:
        return 1 if self.started else self.workers

    @property
    def furthest_granted(self) -> int:
        members = [member.groups[self.name] for member in self.roster]
        return max((one.clock + bool(one.grants) for one in members), default=self.min_clock)

    def clock_of(self, rank: str) -> int:
        return self.roster.progress(rank).clock

    def ranks(self) -> list[str]:
        return self.roster.ranks()

    def slowest(self) -> tuple[str, ...]:
        return self.roster.slowest()

    def behind(self, clock: int) -> list[str]:
        return self.roster.behind(clock)

    # Members come and go.

    def enter(self, member: Incarnation) -> None:
        """A new life."""
        self.roster.enter(member, self.policy.enter_clock(self))
        self._doubtful = True
        if not self.assembled:
            self.arrived.add(member.rank)
            self.assembled = len(self.arrived) >= self.workers

    def exit(self, member: Incarnation, told: Refused) -> None:
        """The life has ended, whatever the way. Accepted pushes stay; staged parts and parked pulls do not."""
        self.roster.exit(member)
        self._doubtful = True
        self._waited_for = tuple(rank for rank in self._waited_for if rank != member.rank)
        if self.rounds.state is RoundState.OPEN:
            self.rounds.remove(member.rank)
        self._drop_staged(member.groups[self.name])
        self.waiting.release(member, told)

    def state_for(self, member: Incarnation) -> GroupState:
        progress = member.groups[self.name]
        record = progress.record
        return GroupState(
            clock=progress.clock,
            policy=self.policy.mode,
            last=LastPush(record.clock, record.disposition) if record else None,
            specs=tuple(self.specs.values()),
            whole=self.whole,
        )

    # Pulls.

    def pull(
        self, request: int, pull: Pull, member: Incarnation | None, now: float, pushed: Pushed | None = None
    ) -> None:
        if member:
            progress = member.groups[self.name]
            if pull.clock != progress.clock and not progress.has_passed(pull.clock):
                self.waiting.say(request, pushed, _wrong_clock(member, pull.clock, progress.clock))
                return
            self._catch_up(member)
            newer = NotYet(Reason.REPLACED, f"a newer pull of {member} was asked in place of this one")
            self.waiting.release(member, newer)
            if self.until is not None and progress.clock >= self.until:
                told = refuse(Code.FINISHED, f"the run ends at clock {self.until}", clock=progress.clock)
                self.waiting.say(request, pushed, told)
                return
        decision = self._judge(pull, member)
        if isinstance(decision, Answer):
            self.waiting.say(request, pushed, self._grant(pull, member, decision, now))
        elif pull.wait_seconds is None:
            self.waiting.say(request, pushed, decision.to_reply())
        else:
            until = now + pull.wait_seconds
            self.waiting.park(Waiting(request, pull, member, until, pushed), decision)
            # At the stop nobody is parked.
            if member and not self._waited_for and self.waiting.of(member):
                self._wait_for(decision)

    def _catch_up(self, member: Incarnation) -> None:
        """Move a worker whose round has gone by without it to the next round to open; the reply to its pull says so."""
        clock = self.policy.caught_up(self, member.rank)
        if clock != member.groups[self.name].clock:
            self._drop_staged(member.groups[self.name])
            self.roster.move(member, clock)
            self.emit(Advanced(self.name, member.rank, clock))

    def _judge(self, pull: Pull, member: Incarnation | None) -> Decision:
        return judge(self, pull, member)

    def _grant(self, pull: Pull, member: Incarnation | None, decision: Answer, now: float) -> Granted:
        self.started = self.started or member is not None
        return grant(self, pull, member, decision, now)

    # Pushes. They come here judged: `Fresh` or `Repeat` (deduplication.judge).

    def push(self, request: int, push: Push, member: Incarnation, now: float) -> None:
        progress = member.groups[self.name]
        # Who has been moved on already may be a member of the open round, but not with this push.
        moved = progress.has_passed(push.clock)
        reception = Reception.LATE if moved else self.policy.push(self, member.rank)
        if misfit := self._misfit(push.kind, reception):
            self.emit(Drop((request,)))
            self.emit(Answered(request, refuse(Code.INVALID_VALUE, misfit)))
            return
        if push.kind is UpdateKind.SKIP or reception is Reception.LATE:
            self._drop_staged(progress)
            self.emit(Drop((request,)))
            bodies: tuple[int, ...] = ()
        else:
            progress.staged[push.part] = (request, push)
            if missing := progress.missing(push.parts):
                self.emit(Answered(request, Staged(push.clock, missing)))
                return
            bodies = tuple(progress.staged[part][0] for part in range(push.parts))
            progress.staged.clear()
            self.schema_closed = True
        self._accept(request, push, member, bodies, reception, now)

    def _misfit(self, kind: UpdateKind, reception: Reception) -> str | None:
        """Why an update of this kind cannot be taken now."""
        if kind is UpdateKind.MODEL and reception is Reception.ON_ARRIVAL:
            return (
                f"whole weights (kind model) are for rounds; under {self.policy.mode} each update is a step of its own:"
                " push a delta, which is what was pulled minus what it has become"
            )
        gathered = self.rounds.kind if reception is Reception.IN_ROUND and kind is not UpdateKind.SKIP else None
        if gathered not in (None, kind):
            return f"round {self.rounds.number} gathers updates of kind {gathered}, not {kind}"
        return None

    def _accept(
        self,
        request: int,
        push: Push,
        member: Incarnation,
        bodies: tuple[int, ...],
        reception: Reception,
        now: float,
    ) -> None:
        progress = member.groups[self.name]
        record = Record(push.clock, push.parts, Reason.SKIPPED)
        progress.record = record
        next_clock = progress.clock if progress.has_passed(push.clock) else self.rounds.next_number
        # Who pushes has heard where it was moved to; while this push is being applied an older one does not replace it.
        progress.passed = None
        if reception is Reception.IN_ROUND:
            self.rounds.contribute(member.rank, Held(push.kind, push.samples, bodies), now)
        if reception is Reception.LATE:
            record.disposition, record.reason = Disposition.LATE, Reason.ROUND_CLOSED
            record.next_clock = next_clock
        elif not bodies:
            record.disposition = Disposition.SKIPPED
        elif reception is Reception.IN_ROUND:
            record.disposition, record.reason = Disposition.HELD, Reason.IN_ROUND
        else:
            record.reason = Reason.ON_ARRIVAL
            self.emit(Accepted(request, self.name, member.rank, push.clock, None, record.reason, push.samples))
            # From an older grant it may push while it waits; then it waits for that push.
            self._doubtful = self._doubtful or self.waiting.of(member) is not None
            self.decided += 1
            record.version = progress.owed = self.decided
            record.staleness = self.decided - push.version - 1
            record.waiters.append((request, push))
            self.in_flight[self.decided] = OnArrival(member, record)
            update = Contribution(member.rank, push.samples, bodies)
            self.emit(
                Apply(
                    self.name,
                    self.decided,
                    push.kind,
                    (update,),
                    aggregated=False,
                    live=self.live_workers,
                    staleness=record.staleness,
                )
            )
            return
        self.emit(
            Accepted(request, self.name, member.rank, push.clock, record.disposition, record.reason, push.samples)
        )
        if record.next_clock != progress.clock:
            self._advance(member, record.next_clock)
        self.tell(request, push, member, record, now)

    def _advance(self, member: Incarnation, to: int | None = None) -> None:
        """The iteration is over; a pull of it that still waits came too late, and is not the pull of the next one."""
        progress = member.groups[self.name]
        pushed = progress.clock
        clock = pushed + 1 if to is None else to
        if member.ended:
            progress.go_on(clock)
            return
        self.roster.go_on(member, clock)
        self.emit(Advanced(self.name, member.rank, clock))
        self.waiting.release(member, _wrong_clock(member, pushed, clock))

    def tell(
        self,
        request: int,
        push: Push,
        member: Incarnation,
        record: Record,
        now: float,
        reason: Reason | None = None,
    ) -> None:
        """Tell the disposition, and go on to the pull of the next iteration when it was asked for."""
        pushed = record.to_reply(reason)
        if not push.pull:
            self.emit(Answered(request, pushed))
        elif member.ended:
            self.emit(Answered(request, PushPulled(pushed, member.refusal())))
        else:
            # The push may have closed its round: the pull is judged by what is true after it.
            self.settle(now)
            clock = push.clock + 1 if record.next_clock is None else record.next_clock
            pull = Pull(self.name, push.life, clock, since=push.since, wait_seconds=push.wait_seconds)
            self.pull(request, pull, member, now, pushed)

    def published_is(self, number: int, now: float, *, failed: bool = False) -> None:
        """The arithmetic for this version is done; `failed`: it has keys and values of the version before it."""
        assert number == self.published + 1, f"v{number} came out after v{self.published}"
        self.published = number
        made = self.in_flight.pop(number)
        if isinstance(made, Adding):
            self._added(made, failed=failed)
        elif isinstance(made, Adopting):
            self._adopted(made, failed=failed)
        elif isinstance(made, OnArrival):
            made.record.settle(failed=failed)
            self._advance(made.member)
            waiters, made.record.waiters = made.record.waiters, []
            for place, (request, push) in enumerate(waiters):
                self.tell(request, push, made.member, made.record, now, Reason.REPEATED if place else None)
        else:
            for record in made.records:
                record.step_failed = failed
            if self.rounds.state is RoundState.APPLYING:
                self.rounds.finish()

    def _added(self, adding: Adding, *, failed: bool) -> None:
        """The keys of an offer are there, or are not; the offer is answered when all its groups have come so far."""
        if failed:
            self._keep({name: spec for name, spec in self.specs.items() if name not in adding.keys})
            # Whoever declared them offers them again.
            self.whole = False
        else:
            self.readable = True
        self._come_so_far(adding.offering, failed=failed)

    def _adopted(self, adopting: Adopting, *, failed: bool) -> None:
        """The tensors have the model's names and kinds, or still those of the version before."""
        if failed:
            self._keep(self._named)
            self.whole, self.from_file = False, True
        else:
            self._named = adopting.specs
            if not any(isinstance(made, Adopting) for made in self.in_flight.values()):
                self._keep(adopting.specs)
        self._come_so_far(adopting.offering, failed=failed)

    def _come_so_far(self, offering: Offering, *, failed: bool) -> None:
        offering.failed = offering.failed or failed
        offering.groups_left -= 1
        if not offering.groups_left:
            self.emit(Drop((offering.request,)))
            if not offering.gone:
                self.emit(Answered(offering.request, _not_stored() if offering.failed else offering.reply))

    def offer(self, specs: tuple[TensorSpec, ...], offering: Offering) -> None:
        """Add keys, none of them known, from the body of the offer: they make the next version."""
        self._keep(self.specs | {spec.name: spec for spec in specs})
        self.decided += 1
        self.in_flight[self.decided] = Adding(offering, tuple(spec.name for spec in specs))
        self.emit(Initialize(self.name, self.decided, offering.request, specs))

    def adopt(self, adoption: Adoption, offering: Offering) -> None:
        """The tensors of a file, as a model has them: they make the next version.

        Whoever has pulled them under the file's names has to pull again before it pushes.
        """
        if not any(isinstance(made, Adopting) for made in self.in_flight.values()):
            self._named = self.specs
        self._keep({spec.name: spec for spec in adoption.specs})
        self.decided += 1
        self.named_from = self.decided
        for member in self.roster:
            progress = member.groups[self.name]
            progress.grants.clear()
            self._drop_staged(progress)
        self.in_flight[self.decided] = Adopting(offering, self.specs)
        self.emit(Adopt(self.name, self.decided, adoption.specs, adoption.sources))

    def _keep(self, specs: Mapping[str, TensorSpec]) -> None:
        added = {name: spec for name, spec in specs.items() if name not in self.specs}
        grown = len(added) + len(self.specs) == len(specs)
        self.sizes = self.sizes + Sizes.of(added.values(), self.name) if grown else Sizes.of(specs.values(), self.name)
        self.specs = dict(specs)

    # The policy.

    def set_policy(
        self, mode: str, staleness: int | None, quorum: int | None = None, grace_seconds: float | None = None
    ) -> PolicyState:
        """Switch (the contract, *Switching*). Raises `ValueError` for settings that make no policy, and for one under
        which the group's aggregation rule means nothing.
        """
        wanted = policies.make(mode, staleness, quorum, grace_seconds)
        self.check_rule(wanted)
        if wanted == self.policy.opened():
            return self.policy_state()
        if self.policy.has_rounds and wanted.has_rounds:
            self.policy = wanted
        else:
            if self.rounds.state is RoundState.OPEN:
                self._close_round()
            self.policy = wanted.adopted(self)
            self.rounds = Rounds(self.rounds.next_number if self.switching_at is None else self.switching_at)
        if self.policy is wanted:
            self._switched()
        return self.policy_state()

    def _switched(self) -> None:
        policy = self.policy
        self.emit(Switched(self.name, policy.mode, policy.staleness, self.decided, policy.quorum, policy.grace_seconds))

    def check_rule(self, wanted: Policy) -> None:
        """Raise `ValueError` when the group's aggregation rule means nothing under this policy."""
        if self.needs_rounds and not wanted.has_rounds:
            raise ValueError(
                f"the aggregation rule of group {self.name} is for rounds; under {wanted.mode} each update is a step of"
                " its own, and nothing is aggregated: start the server with --aggregation mean or sum for that"
            )

    @property
    def switching_at(self) -> int | None:
        """On the way to a policy with rounds: the clock at which its first round opens."""
        return self.policy.at if isinstance(self.policy, Switching) else None

    def policy_state(self) -> PolicyState:
        """The policy that was asked for last, and whether it is in force yet."""
        wanted = self.policy.opened()
        return PolicyState(
            self.name, wanted.mode, wanted.staleness, self.switching_at, wanted.quorum, wanted.grace_seconds
        )

    # Settling: whatever can be answered is answered.

    def settle(self, now: float) -> None:
        """Close and open rounds, wake whoever can go on. Called after every event.

        Costs O(1) when nothing a waiter depends on has changed, O(waiting) when something has.
        """
        if self.rounds.state is RoundState.OPEN and self.policy.may_close(self, now):
            late = tuple(self.rounds.missing)
            self._close_round(late)
            # Whose pull waits, for a version say, is moved on now: it need not ask again to take part once more.
            for rank in late:
                member = self.roster.of_rank(rank)
                if member and self.waiting.of(member):
                    self._catch_up(member)
        if members := self._members_of_a_round():
            self._open_round(members)
        seen = (
            self.min_clock,
            self.published,
            self.policy,
            self.rounds.state,
            self.rounds.number,
            bool(self.specs),
            self.assembled,
        )
        if seen != self._settled:
            self._settled = seen
            found: Park | None = None
            for waiting in self.waiting:
                decision = self._judge(waiting.pull, waiting.member)
                if isinstance(decision, Answer):
                    self.waiting.answer(waiting, self._grant(waiting.pull, waiting.member, decision, now))
                elif found is None and waiting.member and decision.waiting_for:
                    found = decision
            self._wait_for(found)
        elif self._doubtful or self.waiting.left != self._left:
            reasons = (self.why(waiting) for waiting in self.waiting.members)
            self._wait_for(next((why for why in reasons if why.waiting_for), None))
        self._doubtful, self._left = False, self.waiting.left

    @property
    def deadline(self) -> float | None:
        """When the open round may close by the mere passing of time."""
        return self.policy.deadline(self) if self.rounds.state is RoundState.OPEN else None

    def _wait_for(self, why: Park | None) -> None:
        """Under every policy all that wait for others wait for the same ones: the first of them says for whom."""
        ranks = why.waiting_for if why else ()
        if ranks != self._waited_for:
            self._waited_for = ranks
            self.emit(WaitingFor(self.name, ranks, why.clock if why else 0))

    def expire(self, now: float) -> None:
        """Tell those whose wait has run out, after those who can go on."""
        self.settle(now)
        for waiting in self.waiting.expired(now):
            self.waiting.answer(waiting, self.why(waiting).to_reply())

    def paused(self, seconds: float, now: float) -> None:
        """The last `seconds` are part of nobody's iteration and of nobody's wait."""
        for member in self.roster:
            progress = member.groups[self.name]
            progress.granted_at = min(progress.granted_at + seconds, now)
        self.rounds.paused(seconds, now)
        self.waiting.paused(seconds, now)

    def gone(self, request: int) -> None:
        """The asker is no longer there: it waits neither for a pull nor for what is still being made."""
        self.waiting.gone(request)
        for made in self.in_flight.values():
            if isinstance(made, OnArrival):
                made.record.waiters = [asker for asker in made.record.waiters if asker[0] != request]
            elif isinstance(made, Adding) and made.offering.request == request:
                made.offering.gone = True

    def why(self, waiting: Waiting) -> Park:
        """Why this pull waits, and for whom, as things stand now."""
        decision = self._judge(waiting.pull, waiting.member)
        assert isinstance(decision, Park), "once settled, nobody waits who can go on"
        return decision

    def _members_of_a_round(self) -> Sequence[str]:
        """Of one that opens now; nobody: none does."""
        if self.rounds.state is not RoundState.WAITING or self.in_flight or not self.live_workers:
            return ()
        if self.until is not None and self.rounds.number >= self.until:
            return ()
        return self.policy.members(self)

    def _open_round(self, members: Sequence[str]) -> None:
        policy = self.policy.opened()
        if policy is not self.policy:
            self.policy = policy
            self._switched()
        self.started = True
        self.rounds.open(members)
        self.emit(RoundOpened(self.name, self.rounds.number, tuple(self.rounds.members)))

    def _close_round(self, late: tuple[str, ...] = ()) -> None:
        """`late`: whose pushes come too late for it; on the way to another policy they take effect on arrival."""
        number, kind = self.rounds.number, self.rounds.kind
        updates = self.rounds.close(self.least_updates)
        contributors = tuple(update.rank for update in updates)
        too_few = 0 < len(updates) < self.least_updates
        samples = sum(update.samples for update in updates)
        needed = self.least_updates if too_few else None
        self.emit(RoundClosed(self.name, number, contributors, samples, needed, late))
        if too_few:
            self.emit(Drop(tuple(body for update in updates for body in update.bodies)))
        elif updates:
            self.decided += 1
        records = []
        for rank in contributors:
            # A contributor may have ended, and a new life of its rank owes nothing to the old one's update.
            member = self.roster.of_rank(rank)
            progress = member.groups[self.name] if member else None
            if progress and progress.record and progress.clock == number + 1:
                progress.record.too_few = too_few
                progress.owed = progress.owed if too_few else self.decided
                records.append(progress.record)
        if too_few or not updates:
            return
        assert kind is not None
        self.in_flight[self.decided] = RoundStep(tuple(records))
        self.emit(Apply(self.name, self.decided, kind, updates, aggregated=True, live=self.live_workers))

    @property
    def done(self) -> bool:
        """Everybody has reached the end of the run, and all of it is applied."""
        return self.until is not None and self.min_clock >= self.until and not self.in_flight and not self.rounds.held

    def _drop_staged(self, progress: Progress) -> None:
        if progress.staged:
            self.emit(Drop(tuple(request for request, _ in progress.staged.values())))
            progress.staged.clear()


def _not_stored() -> Refused:
    return refuse(
        Code.INTERNAL, "the server failed to store what was offered, its log says why; its keys are free, offer again"
    )


def _wrong_clock(member: Incarnation, asked: int, clock: int) -> Refused:
    return refuse(
        Code.WRONG_CLOCK, f"{member} pulls iteration {asked}, its clock is {clock}; pull iteration {clock}", clock=clock
    )
