"""The state machine of a server: `step(event, now) -> effects`. Everything that affects a decision lives below here.

A request is judged when its last byte is in, always in this order: is the server stopping; is the epoch the present
one; is the incarnation known and live; does it fit the group's state. A refusal changes nothing. After every event
each group settles: rounds close and open, whoever can go on is answered.

Time comes in as `now`, in seconds of any steady clock; nothing happens at a time of its own accord, only in the next
event. Ticks bring the expiry of leases and of waits; `next_deadline` says when one is wanted for something exact.
Time in which the server did not run is told as `Paused`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, assert_never

from leeway.protocol import parts
from leeway.protocol.barriers import Barrier
from leeway.protocol.codes import Code
from leeway.protocol.membership import Departed, Heartbeat, Join, Leave, Renewed
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push
from leeway.protocol.quarantine import Quarantine, Release
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused, refuse
from leeway.protocol.tuning import OptimizerState, SetOptimizer, SetPolicy
from leeway.ps.core import circles
from leeway.ps.core.barriers import Barriers
from leeway.ps.core.deduplication import Fresh, StagedAgain, judge, not_joined
from leeway.ps.core.effects import (
    Answered,
    Configure,
    Drop,
    Ended,
    Finished,
    Over,
    Parked,
    SwitchBegun,
    Switched,
    WaitingFor,
)
from leeway.ps.core.endings import Endings
from leeway.ps.core.events import Asked, Failed, Gone, Paused, Published, Stop, Tick
from leeway.ps.core.groups import Group
from leeway.ps.core.in_flight import Offering
from leeway.ps.core.joins import Joins
from leeway.ps.core.lives import Incarnation, Seat
from leeway.ps.core.membership import Membership
from leeway.ps.core.offers import judge_offer
from leeway.ps.core.quarantine import Quarantines

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from leeway.protocol.lives import Life
    from leeway.protocol.messages import Request
    from leeway.ps.core.deduplication import Verdict
    from leeway.ps.core.effects import Effect
    from leeway.ps.core.events import Event
    from leeway.ps.core.offers import Plan
    from leeway.ps.core.settings import GroupSettings, Settings


class Machine:
    def __init__(self, settings: Settings, epoch: int, now: float = 0.0) -> None:
        self.settings = settings
        self.endings = Endings(settings, now)
        # Why nobody goes on in any group, whatever the clocks say; None: they do.
        self.over: str | None = None
        self.epoch = epoch
        self.membership = Membership(settings.lease_seconds)
        self.joins = Joins(self)
        self.quarantines = Quarantines(self)
        self._effects: list[Effect] = []
        self._now = 0.0
        self.barriers = Barriers(self.emit)
        self.groups = {group.name: self._group(group) for group in settings.groups}
        # The groups that workers have made, in the order in which they did.
        self.parts: list[str] = []
        self.stopping = False
        self.finished = False
        # Whether something has happened that may have closed a circle of waiters, and the pull that did.
        self._may_circle = False
        self._parked: Parked | None = None
        self._missed: set[Incarnation] = set()

    def _group(self, settings: GroupSettings) -> Group:
        workers, until = self.settings.workers, self.settings.until
        return Group(
            settings,
            epoch=self.epoch,
            workers=workers,
            until=until,
            emit=self.emit,
            membership=self.membership,
            lose=lambda member, detail: self.end(member, Reason.GRANT_LOST, detail),
            quarantines=self.quarantines,
        )

    def create(self, name: str) -> None:
        """Begin a part: a group that no setting names."""
        group = self.groups[name] = self._group(self.settings.part(name))
        group.over = self.over
        self.parts.append(name)

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)
        match effect:
            case Answered():
                self.membership.answered(effect.request, self._now)
            case Parked(group=str(), rank=str()):
                self._may_circle, self._parked = True, effect
            case Switched() | SwitchBegun() | Ended() | WaitingFor():
                self._may_circle = True

    def may_circle(self) -> None:
        """Something has happened that may have closed a circle of waiters."""
        self._may_circle = True

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event, return what is to be done about it, in order."""
        self._effects, self._now = [], now
        if not isinstance(event, (Paused, Stop)):
            self._end_run(self.endings.by_time(now))
        self._end_if_due(now)  # after a restart it may be, before anything has happened
        self._take(event, now)
        for group in self.groups.values():
            group.settle(now)
        self._break_circles(now)
        self._end_if_due(now)
        self._find_missed(now)
        for group in self.groups.values():
            group.settle_pins()
        return self._effects

    def _break_circles(self, now: float) -> None:
        """Let a newcomer that closes a circle be late where it is missed; of any other circle refuse the pull that
        closed it, or where none has, that of the last rank.
        """
        while self._may_circle:
            parked, self._may_circle, self._parked = self._parked, False, None
            circle = circles.find(self.groups.values()) if len(self.groups) > 1 else []
            if circle and any(
                wait.group.pass_over(after.rank, now)
                for wait, after in zip(circle, [*circle[1:], circle[0]], strict=True)
            ):
                self._may_circle = True
            elif circle:
                closing = [wait for wait in circle if parked and wait.waiting.request == parked.request]
                chosen = closing[0] if closing else circles.last(circle)
                chosen.group.waiting.answer(chosen.waiting, circles.refusal(circle))
                chosen.group.settle(now)
                self._may_circle = True

    def _end_run(self, why: str | None) -> None:
        """Nobody goes on in any group, unless `why` is None."""
        if why is None or self.over is not None or self.finished or self.stopping:
            return
        self.over = why
        self.emit(Over(why))
        for group in self.groups.values():
            group.end(why)
        self._nobody_comes()

    def _nobody_comes(self) -> None:
        """Who waits for others to come waits in vain."""
        self.barriers.end(self.complete())
        self.joins.dismiss(self.complete())

    def complete(self) -> Refused:
        """What is said to those who wait for others when the run is over."""
        return refuse(Code.FINISHED, self.over or "every group has come to its end")

    def _end_if_due(self, now: float) -> None:
        """The run is finished when every group with an end that workers are in has come to it. The others end with it.

        A group that nobody is in keeps nobody from the end: one that nobody has ever joined would never come to it.
        """
        if self.finished:
            return
        groups = self.groups.values()
        if self.over is None:
            ending = [group for group in groups if group.ends and group.arrived]
            if not any(group.done for group in ending) or not all(group.done or group.deserted for group in ending):
                return
            for group in groups:
                if not group.ends:
                    group.end("the other parts of the run are complete")
                    group.settle(now)
        if all(group.done or group.deserted for group in groups):
            self.finished = True
            self._nobody_comes()
            self.emit(Finished())

    @property
    def next_deadline(self) -> float | None:
        """When the machine wants its next `Tick` at the latest, because something is then due that is exact."""
        if self.stopping:
            return None
        rounds = [group.keeper.deadline for group in self.groups.values()]
        end = self.endings.deadline if self.over is None else None
        return min((at for at in (*rounds, end) if at is not None), default=None)

    def _take(self, event: Event, now: float) -> None:
        match event:
            case Asked(request, message, norm):
                self._asked(request, message, norm, now)
            case Gone(request):
                self.membership.answered(request, now)
                self.barriers.gone(request)
                self.joins.gone(request)
                for group in self.groups.values():
                    group.gone(request)
            case Published(name, number):
                self.groups[name].published_is(number, now)
            case Failed(name, number):
                self.groups[name].published_is(number, now, failed=True)
            case Tick():
                self._tick(now)
            case Paused(seconds):
                self.endings.paused(seconds, now)
                self.membership.paused(seconds, now)
                self.barriers.paused(seconds, now)
                self.joins.paused(seconds, now)
                for group in self.groups.values():
                    group.paused(seconds, now)
            case Stop():
                self.stopping = True
                refusal = self._stopping()
                self.barriers.stop(refusal)
                self.joins.dismiss(refusal)
                for group in self.groups.values():
                    group.stop(refusal)
            case _:
                assert_never(event)

    def _asked(self, request: int, message: Request, norm: float | None, now: float) -> None:
        if self.stopping:
            if isinstance(message, (Push, Offer)):
                self.emit(Drop((request,)))
            self.emit(Answered(request, self._stopping()))
            return
        match message:
            case Join():
                self.joins.take(request, message, now)
            case Offer():
                self._offer(request, message)
            case SetPolicy():
                self._set_policy(request, message)
            case SetOptimizer(name, settings):
                if name in self.groups:
                    self.emit(Configure(name, settings))
                    self.emit(Answered(request, OptimizerState(name, settings)))
                else:
                    self.emit(Answered(request, self.unknown_group(name)))
            case Pull(life=None):
                group = self.groups.get(message.group)
                if group:
                    group.pulls.take(request, message, None, now)
                else:
                    self.emit(Answered(request, self.unknown_group(message.group)))
            case Push():
                self._push(request, message, norm, now)
            case Quarantine() | Release():
                self.quarantines.take(request, message)
            case Leave() | Heartbeat() | Pull() | Barrier():
                self._asked_by_worker(request, message, now)
            case _:
                assert_never(message)

    # Workers.

    def _member(self, life: Life) -> Incarnation | Refused:
        """The incarnation that this request names, live or ended; a refusal when there is none such."""
        if life.epoch != self.epoch:
            return refuse(
                Code.OLD_EPOCH,
                f"epoch {life.epoch} is over, this is {self.epoch}; join again",
                epoch=self.epoch,
            )
        member = self.membership.find(life)
        if member:
            return member
        if self.membership.forgotten(life):
            return refuse(Code.FENCED, f"{life} ended long ago, newer lives of {life.rank} have been since", last={})
        return refuse(Code.NOT_JOINED, f"{life} has not joined; join first")

    def _asked_by_worker(self, request: int, message: Leave | Heartbeat | Pull | Barrier, now: float) -> None:
        member = self._member(message.life) if message.life else None
        assert member is not None, "a reader's pull does not come here"
        if isinstance(member, Refused):
            self.emit(Answered(request, member))
            return
        seat = member.seat(message.life.stage if message.life else None)
        if isinstance(seat, Refused):
            self.emit(Answered(request, seat))
        elif member.ended or seat.left:
            self._asked_by_gone(request, message, member, seat)
        else:
            self.membership.asks(request, seat, now)
            self._asked_by_member(request, message, member, seat, now)

    def _asked_by_gone(
        self, request: int, message: Leave | Heartbeat | Pull | Barrier, member: Incarnation, seat: Seat
    ) -> None:
        """Its life has ended, or it has said goodbye before that."""
        if isinstance(message, Leave):
            self.joins.leave(member.rank, seat)
            if seat.left or member.ended is Reason.LEFT:
                self.emit(Answered(request, Departed(member.rank)))
                return
        elif not member.ended:
            self.emit(Answered(request, refuse(Code.LEFT, f"stage {seat.stage} of {member} has left", last={})))
            return
        self.emit(Answered(request, member.refusal(seat.stage)))

    def _asked_by_member(
        self, request: int, message: Leave | Heartbeat | Pull | Barrier, member: Incarnation, seat: Seat, now: float
    ) -> None:
        match message:
            case Heartbeat():
                self.emit(Answered(request, Renewed(self.settings.lease_seconds)))
            case Leave():
                self._leave(member, seat)
                self.emit(Answered(request, Departed(member.rank)))
            case Barrier():
                self.barriers.arrive(request, message, member, self.membership.live(), now)
            case Pull():
                if message.group in member.groups:
                    self.groups[message.group].pulls.take(request, message, member, now)
                elif message.group in self.groups:
                    self.emit(Answered(request, not_joined(member, message.group)))
                else:
                    self.emit(Answered(request, self.unknown_group(message.group)))
            case _:
                assert_never(message)

    def _leave(self, member: Incarnation, seat: Seat) -> None:
        """A stage that leaves takes the replica with it, unless that has come to its end: then the others leave too."""
        seat.left = True
        if member.is_replica and any(not each.left for each in member.seats) and self._is_complete(member):
            return
        who = member if seat.stage is None else f"stage {seat.stage} of {member}"
        self.end(member, Reason.LEFT, f"{who} left", seat.stage)

    def _is_complete(self, member: Incarnation) -> bool:
        """Whether nothing more is computed in this life."""
        return all(
            self.groups[name].is_over_at(progress.clock) and not progress.computing
            for name, progress in member.groups.items()
        )

    def end(self, member: Incarnation, reason: Reason, detail: str, culprit: int | None = None) -> None:
        """End a life. `culprit`: the stage of a replica by which it ends."""
        self.membership.end(member, reason, detail, culprit)
        self.emit(Ended(member.rank, member.number, reason, detail))
        for name in member.groups:
            self.groups[name].exit(member, member.refusal)
        self.barriers.depart(member)
        self.joins.ended(member)

    def _tick(self, now: float) -> None:
        if self.stopping:
            return  # time decides nothing behind the state that is saved
        for member, seat in self.membership.expired(now):
            who = member if seat.stage is None else f"stage {seat.stage} of {member}"
            silent = f"{who} was silent for longer than its lease of {self.settings.lease_seconds:g} s"
            self.end(member, Reason.LEASE_EXPIRED, silent, seat.stage)
        limit = self.settings.max_iteration_seconds
        if limit is not None:
            for member in list(self.membership.live()):
                if any(
                    progress.computing and progress.granted_at + limit <= now for progress in member.groups.values()
                ):
                    hung = f"{member} has been in one iteration for longer than {limit:g} s"
                    self.end(member, Reason.ITERATION_TOO_LONG, hung)
        self.barriers.expire(now)
        self.joins.expire(now)
        for group in self.groups.values():
            group.expire(now)

    def _find_missed(self, now: float) -> None:
        """All that these lives ask is parked, and others wait for them in a group where they ask nothing.

        Looked for after every event and not when time passes: a history has no tick that leads to nothing.
        """
        awaited = {name: group.pulls.awaited() for name, group in self.groups.items()} if len(self.groups) > 1 else {}
        found = {member for rank in set().union(*awaited.values()) if (member := self.membership.of_rank(rank))}
        missed = {member for member in found if self._is_missed(member, awaited)}
        for member in missed ^ self._missed:
            self.membership.is_missed(member, now, missed=member in missed)
        self._missed = missed

    def _is_missed(self, member: Incarnation, awaited: Mapping[str, Collection[str]]) -> bool:
        waits = [name for name in member.groups if self.groups[name].waiting.of(member)]
        if not waits or member.unanswered > len(waits):
            return False
        return any(member.rank in awaited[name] for name in member.groups if name not in waits)

    def keys_of(self, life: Life | None) -> tuple[str, ...] | None:
        """Those that a stage pulls, as it has declared; None: all of the group."""
        member = self.membership.find(life) if life else None
        if member is None or life is None or life.stage is None:
            return None
        place = member.seats[life.stage].place
        return place.keys if place else None

    # Pushes.

    def judge(self, push: Push) -> Verdict:
        """What would become of this push, without taking it: asked before its tensors are looked at."""
        member = self._member(push.life)
        if isinstance(member, Refused):
            return member
        if push.group not in self.groups:
            return self.unknown_group(push.group)
        seat = member.seat(push.life.stage)
        return seat if isinstance(seat, Refused) else judge(member, push)

    def _push(self, request: int, push: Push, norm: float | None, now: float) -> None:
        member = self._member(push.life)
        if isinstance(member, Incarnation) and not member.ended:
            seat = member.seat(push.life.stage)
            if isinstance(seat, Seat):
                self.membership.asks(request, seat, now)
        verdict = self.judge(push)
        if isinstance(verdict, Fresh):
            self._take_push(request, push, verdict.member, norm, now)
            return
        self.emit(Drop((request,)))
        if isinstance(verdict, Refused):
            self.emit(Answered(request, verdict))
        elif isinstance(verdict, StagedAgain):
            self.groups[push.group].pushes.staged_again(request, push, verdict.member, now)
        elif verdict.record.disposition is None:
            verdict.record.waiters.append((request, push))
        else:
            group = self.groups[push.group]
            group.tell(request, push, verdict.member, verdict.record, now, Reason.REPEATED)

    def _take_push(self, request: int, push: Push, member: Incarnation, norm: float | None, now: float) -> None:
        group = self.groups[push.group]
        if taken := group.pushes.take(request, push, member, norm, now):
            record = taken.record
            # Before the pull that may have come with it is looked at.
            self._end_run(self.endings.by_figures(taken.figures, group.name, group.published))
            if record.disposition is not None:
                waiters, record.waiters = record.waiters, []
                group.tell_all([(request, push), *waiters], member, record, now)

    # Keys.

    def group_of(self, key: str) -> str | None:
        """The group that holds this key, known or not yet: the part whose it is, the group that names it in full, the
        first with a pattern that it matches."""
        for name in self.parts:
            if key.startswith(parts.prefix(name)):
                return name
        for group in self.settings.groups:
            if key in group.keys:
                return group.name
        for group in self.settings.groups:
            if any(fnmatchcase(key, pattern) for pattern in group.keys):
                return group.name
        return None

    def judge_offer(self, offer: Offer) -> Plan | Refused:
        """What would become of this offer, without taking it."""
        return judge_offer(offer, self.groups, self.group_of, self.settings.capacity)

    def _offer(self, request: int, offer: Offer) -> None:
        plan = self.judge_offer(offer)
        if isinstance(plan, Refused):
            self.emit(Drop((request,)))
            self.emit(Answered(request, plan))
            return
        names = tuple(spec.name for specs in plan.new.values() for spec in specs)
        # The values of one stage alone, and a server that has lost the declaration in a crash: it is to be asked anew.
        stray = offer.spread and any(self.groups[name].declared is None for name in plan.new)
        storing = {} if offer.ask or stray else plan.new
        reply = Offered((), plan.kept, wanted=names) if offer.ask or stray else Offered(names, plan.kept)
        # The question too says what a group is; only values have to wait until they are sent.
        for name in plan.of_file:
            self.groups[name].from_file = True
        if offer.ask and offer.spread and plan.whole is not None and plan.whole in plan.new:
            self.groups[plan.whole].offerings.declare(offer.specs)
        if plan.whole is not None and plan.whole not in plan.new.keys() - storing.keys():
            self.groups[plan.whole].whole = True
            self.groups[plan.whole].from_file = False
        if not storing and not plan.adoptions:
            self.emit(Drop((request,)))
            self.emit(Answered(request, reply))
            return
        offering = Offering(request, reply, groups_left=len(storing) + len(plan.adoptions))
        for name, specs in storing.items():
            self.groups[name].offerings.add(tuple(specs), offer.holds, offering)
        for name, adoption in plan.adoptions.items():
            self.groups[name].offerings.adopt(adoption, offering)

    # Policies.

    def _set_policy(self, request: int, wanted: SetPolicy) -> None:
        group = self.groups.get(wanted.group)
        if not group:
            self.emit(Answered(request, self.unknown_group(wanted.group)))
            return
        try:
            state = group.set_policy(wanted.terms)
        except ValueError as error:
            self.emit(Answered(request, refuse(Code.INVALID_VALUE, str(error))))
            return
        self.emit(Answered(request, state))

    def _stopping(self) -> Refused:
        return refuse(Code.STOPPING, "the server is stopping; ask again when it is back")

    def unknown_group(self, name: str) -> Refused:
        return refuse(Code.UNKNOWN_GROUP, f"there is no group {name!r}; this server has {', '.join(self.groups)}")
