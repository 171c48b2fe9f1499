"""One group: where its pulls, pushes, offerings, rounds and switches meet.

The one rule: after every event the group settles, so that whatever can now be answered is answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.membership import GroupState
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import LastPush, PushPulled
from leeway.protocol.reasons import Reason
from leeway.ps.core.effects import Advanced, Answered, PassedOver, Pin
from leeway.ps.core.in_flight import Adding, Adopting, OnArrival
from leeway.ps.core.offerings import Offerings
from leeway.ps.core.preview import preview
from leeway.ps.core.pulls import Pulls
from leeway.ps.core.pushes import Pushes
from leeway.ps.core.round_keeper import RoundKeeper
from leeway.ps.core.rounds import RoundState
from leeway.ps.core.situation import Situation
from leeway.ps.core.switches import Switches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from leeway.protocol.policy_terms import PolicyTerms
    from leeway.protocol.pushes import Push
    from leeway.protocol.refusals import Refused
    from leeway.protocol.tuning import PolicyState
    from leeway.ps.core.effects import Effect
    from leeway.ps.core.lives import Incarnation
    from leeway.ps.core.membership import Membership
    from leeway.ps.core.preview import Preview
    from leeway.ps.core.progress import Record
    from leeway.ps.core.quarantine import Quarantines
    from leeway.ps.core.settings import GroupSettings


class Group(Situation):
    def __init__(
        self,
        settings: GroupSettings,
        *,
        epoch: int,
        workers: int,
        until: int | None,
        emit: Callable[[Effect], None],
        membership: Membership,
        lose: Callable[[Incarnation, str], None],
        quarantines: Quarantines,
    ) -> None:
        super().__init__(
            settings,
            epoch=epoch,
            workers=workers,
            until=until,
            emit=emit,
            membership=membership,
            lose=lose,
            quarantines=quarantines,
        )
        self.pulls = Pulls(self)
        self.pushes = Pushes(self, self.pulls)
        self.offerings = Offerings(self)
        self.keeper = RoundKeeper(self)
        self.switches = Switches(self, self.keeper)
        self.stopped = False

    # Members come and go.

    def enter(self, member: Incarnation) -> None:
        """A new life."""
        self.roster.enter(member, self.policy.enter_clock(self))
        self.pulls.entered()
        if not self.assembled:
            self.arrived.add(member.rank)
            self.assembled = len(self.arrived) >= self.workers

    def exit(self, member: Incarnation, refusal: Callable[[int | None], Refused]) -> None:
        """The life has ended, whatever the way. Accepted pushes stay; staged parts and parked requests do not.

        `refusal`: what they are told, by stage.
        """
        self.roster.exit(member)
        self.norms.forget(member.rank)
        if self.rounds.state is RoundState.OPEN:
            self.rounds.remove(member.rank)
        self.pushes.exited(member, refusal)
        self.pulls.exited(member, refusal)

    def is_unused_by(self, member: Incarnation) -> bool:
        """Whether it has neither pulled nor pushed here."""
        progress = member.groups[self.name]
        return not (progress.grants or progress.record or progress.staged or self.waiting.of(member))

    def pass_over(self, rank: str, now: float) -> bool:
        """Go on without this worker, if it has handed in nothing here yet: who joins between the steps of two parts is
        an iteration off. Returns whether it was.

        What it computes will be late, and uses up its turn: it is in step again in the iteration after the next.
        """
        member = self.roster.of_rank(rank)
        if member is None or member.groups[self.name].record is not None or self.switching_at is not None:
            return False
        progress = member.groups[self.name]
        before = self.rounds.next_number if self.policy.has_rounds else progress.clock + 1
        clock = before + bool(progress.grants)
        assert clock > progress.clock, "who is missed is not ahead"
        self.drop_staged(progress)
        self.roster.move(member, clock)
        self.emit(PassedOver(self.name, rank, clock))
        self.emit(Advanced(self.name, rank, clock))
        if self.rounds.state is RoundState.OPEN:
            self.rounds.remove(rank)
        self.settle(now)
        return True

    def end(self, why: str) -> None:
        """Whoever computes is waited for and its update taken; nobody goes on."""
        self.over = why
        self.pulls.end(why)

    def state_for(self, member: Incarnation) -> GroupState:
        """What a joiner is told."""
        progress = member.groups[self.name]
        record = progress.record
        return GroupState(
            clock=progress.clock,
            policy=self.policy.terms.mode,
            last=LastPush(record.clock, record.disposition) if record else None,
            specs=tuple(self.specs.values()),
            whole=self.whole,
            until=self.own_until,
            committed=self.membership.committed(member.rank).get(self.name, 0),
        )

    # A push, and the pull that comes with it.

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
            self.emit(Answered(request, PushPulled(pushed, member.refusal(push.life.stage))))
        else:
            # The push may have closed its round: the pull is judged by what is true after it.
            self.settle(now)
            clock = push.clock + 1 if record.next_clock is None else record.next_clock
            pull = Pull(self.name, push.life, clock, since=push.since, wait_seconds=push.wait_seconds)
            self.pulls.take(request, pull, member, now, pushed)

    def tell_all(self, waiters: Iterable[tuple[int, Push]], member: Incarnation, record: Record, now: float) -> None:
        """Each stage of a replica, or a worker; who has asked more than once is told that it repeats itself."""
        told: set[int | None] = set()
        for request, push in waiters:
            stage = push.life.stage
            self.tell(request, push, member, record, now, Reason.REPEATED if stage in told else None)
            told.add(stage)

    # Versions come out.

    def published_is(self, number: int, now: float, *, failed: bool = False) -> None:
        """The arithmetic for this version is done; `failed`: it has keys and values of the version before it."""
        assert number == self.published + 1, f"v{number} came out after v{self.published}"
        self.published = number
        step = self.in_flight.pop(number)
        if isinstance(step, Adding):
            self.offerings.added(step, failed=failed)
        elif isinstance(step, Adopting):
            self.offerings.adopted(step, failed=failed)
        elif isinstance(step, OnArrival):
            self.tell_all(self.pushes.applied(step, failed=failed), step.member, step.record, now)
        else:
            self.keeper.stepped(step, failed=failed)

    # The policy.

    def set_policy(self, terms: PolicyTerms) -> PolicyState:
        """Raises `ValueError` as `Switches.to` does."""
        self.switches.to(terms)
        return self.policy_state()

    def preview(self, terms: PolicyTerms) -> Preview:
        """What `set_policy` would do now. Raises `ValueError` as it does."""
        return preview(self, self.switches.wanted(terms))

    # Whatever can be answered is answered.

    def stop(self, refusal: Refused) -> None:
        """The state as it is now is what a next start goes on from: no round opens or closes any more, nobody waits."""
        self.stopped = True
        self.waiting.stop(refusal)
        self.pushes.stop(refusal)

    def settle(self, now: float) -> None:
        """Close and open rounds, wake whoever can go on. Called after every event."""
        if not self.stopped:
            self._move_on(self.keeper.close_if_due(now))
            self._move_on(self.keeper.open_if_due())
        self.pulls.look_again(now)

    def settle_pins(self) -> None:
        """Keep what replicas that compute were granted, for those of their stages that still ask for it."""
        granted = (member.groups[self.name].granted for member in self.roster.replicas)
        pinned = tuple(sorted({each.version.number for each in granted if each}))
        if pinned != self.pinned:
            self.pinned = pinned
            self.emit(Pin(self.name, pinned))

    def _move_on(self, late: Iterable[str]) -> None:
        """Of these, whose pull waits, for a version say, need not ask again to take part once more."""
        for rank in late:
            member = self.roster.of_rank(rank)
            if member and self.waiting.of(member):
                self.pulls.catch_up(member)

    def expire(self, now: float) -> None:
        """Tell those whose wait has run out, after those who can go on."""
        self.settle(now)
        self.pulls.expire(now)
        self.pushes.expire(now)

    def paused(self, seconds: float, now: float) -> None:
        """The last `seconds` are part of nobody's iteration and of nobody's wait."""
        for member in self.roster:
            progress = member.groups[self.name]
            progress.granted_at = min(progress.granted_at + seconds, now)
        self.rounds.paused(seconds, now)
        self.waiting.paused(seconds, now)
        self.pushes.paused(seconds, now)

    def gone(self, request: int) -> None:
        """The asker is no longer there: it waits neither for a pull nor for what is still being made."""
        self.waiting.gone(request)
        self.pushes.gone(request)
        self.offerings.gone(request)
