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

from leeway.protocol import limits, parts
from leeway.protocol.barriers import Barrier
from leeway.protocol.codes import Code
from leeway.protocol.membership import Departed, Heartbeat, Join, Joined, Leave, Renewed
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, Staged
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused, refuse
from leeway.protocol.tuning import OptimizerState, SetOptimizer, SetPolicy
from leeway.ps.core import circles
from leeway.ps.core.barriers import Barriers
from leeway.ps.core.deduplication import Fresh, StagedAgain, judge, not_joined
from leeway.ps.core.effects import (
    Answered,
    Began,
    Configure,
    Create,
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
from leeway.ps.core.membership import Incarnation, Membership
from leeway.ps.core.offers import judge_offer

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
        self._effects: list[Effect] = []
        self._now = 0.0
        self.barriers = Barriers(self._emit)
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
        return Group(settings, epoch=self.epoch, workers=workers, until=until, emit=self._emit)

    def create(self, name: str) -> None:
        """Begin a part: a group that no setting names."""
        group = self.groups[name] = self._group(self.settings.part(name))
        group.over = self.over
        self.parts.append(name)

    def _emit(self, effect: Effect) -> None:
        self._effects.append(effect)
        match effect:
            case Answered():
                self.membership.answered(effect.request, self._now)
            case Parked(group=str(), rank=str()):
                self._may_circle, self._parked = True, effect
            case Switched() | SwitchBegun() | Ended() | WaitingFor():
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
        self._emit(Over(why))
        for group in self.groups.values():
            group.end(why)
        self.barriers.end(self._complete())

    def _complete(self) -> Refused:
        """What is said at named barriers when the run is over."""
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
            self.barriers.end(self._complete())
            self._emit(Finished())

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
            case Asked(request, message):
                self._asked(request, message, now)
            case Gone(request):
                self.membership.answered(request, now)
                self.barriers.gone(request)
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
                for group in self.groups.values():
                    group.paused(seconds, now)
            case Stop():
                self.stopping = True
                refusal = self._stopping()
                self.barriers.stop(refusal)
                for group in self.groups.values():
                    group.stop(refusal)
            case _:
                assert_never(event)

    def _asked(self, request: int, message: Request, now: float) -> None:
        if self.stopping:
            if isinstance(message, (Push, Offer)):
                self._emit(Drop((request,)))
            self._emit(Answered(request, self._stopping()))
            return
        match message:
            case Join():
                self._join(request, message, now)
            case Offer():
                self._offer(request, message)
            case SetPolicy():
                self._set_policy(request, message)
            case SetOptimizer(name, settings):
                if name in self.groups:
                    self._emit(Configure(name, settings))
                    self._emit(Answered(request, OptimizerState(name, settings)))
                else:
                    self._emit(Answered(request, self._unknown_group(name)))
            case Pull(life=None):
                group = self.groups.get(message.group)
                if group:
                    group.pulls.take(request, message, None, now)
                else:
                    self._emit(Answered(request, self._unknown_group(message.group)))
            case Push():
                self._push(request, message, now)
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
            self._emit(Answered(request, member))
        elif member.ended:
            already = isinstance(message, Leave) and member.ended is Reason.LEFT
            self._emit(Answered(request, Departed(member.rank) if already else member.refusal()))
        else:
            self.membership.asks(request, member, now)
            self._asked_by_member(request, message, member, now)

    def _asked_by_member(
        self, request: int, message: Leave | Heartbeat | Pull | Barrier, member: Incarnation, now: float
    ) -> None:
        match message:
            case Heartbeat():
                self._emit(Answered(request, Renewed(self.settings.lease_seconds)))
            case Leave():
                self._end(member, Reason.LEFT, f"{member} left")
                self._emit(Answered(request, Departed(member.rank)))
            case Barrier():
                self.barriers.arrive(request, message, member, self.membership.live(), now)
            case Pull():
                if message.group in member.groups:
                    self.groups[message.group].pulls.take(request, message, member, now)
                elif message.group in self.groups:
                    self._emit(Answered(request, not_joined(member, message.group)))
                else:
                    self._emit(Answered(request, self._unknown_group(message.group)))
            case _:
                assert_never(message)

    def _join(self, request: int, join: Join, now: float) -> None:
        if refused := self._judge_groups(join):
            self._emit(Answered(request, refused))
            return
        member = self.membership.of_session(join.rank, join.session)
        if member and member.ended:
            self._emit(Answered(request, member.refusal()))
            return
        resumed = member is not None
        if not member:
            old = self.membership.of_rank(join.rank)
            if old:
                self._end(old, Reason.NEW_SESSION, f"{old} was replaced by a new process of rank {old.rank}")
            member = self.membership.begin(join.rank, join.session, now)
            if not member:
                self._emit(Answered(request, refuse(Code.BUSY, "too many ranks have joined this server")))
                return
            self._emit(Began(member.rank, member.number))
        if join.revision >= member.revision:  # else it is an old one that comes late, or twice
            member.one_after_another, member.revision = join.one_after_another, join.revision
            self._enter(member, join)
        self.membership.renew(member, now)
        live = self.membership.live()
        reply = Joined(
            epoch=self.epoch,
            incarnation=member.number,
            resumed=resumed,
            lease_seconds=self.settings.lease_seconds,
            index=live.index(member),
            count=len(live),
            groups={name: self.groups[name].state_for(member) for name in member.groups},
            barriers=self.barriers.generations(),
            until=self.settings.until,
            limits=self.settings.capacity,
        )
        self._emit(Answered(request, reply))

    def _judge_groups(self, join: Join) -> Refused | None:
        """Why the groups that it names cannot be joined."""
        for name in join.groups or ():
            if name not in self.groups and name not in join.create:
                return self._unknown_group(name)
        new = [name for name in dict.fromkeys(join.create) if name not in self.groups]
        if len(self.groups) + len(new) > limits.MAX_GROUPS:
            most = f"a server has {limits.MAX_GROUPS} groups at most, and this one has {len(self.groups)}"
            return refuse(Code.INVALID_VALUE, f"{most}; {', '.join(new)} cannot be made")
        for name in new:
            for other in self.groups.values():
                if key := next((key for key in other.specs if key.startswith(parts.prefix(name))), None):
                    its = f"its key {key!r} is in group {other.name}"
                    return refuse(Code.SCHEMA_CONFLICT, f"group {name!r} cannot be made, {its}; choose another name")
        return None

    def _enter(self, member: Incarnation, join: Join) -> None:
        """Have the life be in the groups that the join names. Asked again, it may name others: those are entered, and
        of the rest those are left in which it has done nothing.
        """
        if join.groups is None:
            wanted = () if member.groups else tuple(group.name for group in self.settings.groups)
        else:
            wanted = join.groups
            for name in [name for name in member.groups if name not in wanted]:
                group = self.groups[name]
                if group.is_unused_by(member):
                    group.exit(member, not_joined(member, name))
                    self._may_circle = True
                    del member.groups[name]
        for name in wanted:
            if name not in self.groups:
                self.create(name)
                self._emit(Create(name))
            if name not in member.groups:
                self.groups[name].enter(member)

    def _end(self, member: Incarnation, reason: Reason, detail: str) -> None:
        self.membership.end(member, reason, detail)
        self._emit(Ended(member.rank, member.number, reason, detail))
        refusal = member.refusal()
        for name in member.groups:
            self.groups[name].exit(member, refusal)
        self.barriers.depart(member, refusal)

    def _tick(self, now: float) -> None:
        if self.stopping:
            return  # time decides nothing behind the state that is saved
        for member in self.membership.expired(now):
            silent = f"{member} was silent for longer than its lease of {self.settings.lease_seconds:g} s"
            self._end(member, Reason.LEASE_EXPIRED, silent)
        limit = self.settings.max_iteration_seconds
        if limit is not None:
            for member in list(self.membership.live()):
                if any(
                    progress.computing and progress.granted_at + limit <= now for progress in member.groups.values()
                ):
                    hung = f"{member} has been in one iteration for longer than {limit:g} s"
                    self._end(member, Reason.ITERATION_TOO_LONG, hung)
        self.barriers.expire(now)
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

    # Pushes.

    def judge(self, push: Push) -> Verdict:
        """What would become of this push, without taking it: asked before its tensors are looked at."""
        member = self._member(push.life)
        if isinstance(member, Refused):
            return member
        if push.group not in self.groups:
            return self._unknown_group(push.group)
        return judge(member, push)

    def _push(self, request: int, push: Push, now: float) -> None:
        member = self._member(push.life)
        if isinstance(member, Incarnation) and not member.ended:
            self.membership.asks(request, member, now)
        verdict = self.judge(push)
        if isinstance(verdict, Fresh):
            self._take_push(request, push, verdict.member, now)
            return
        self._emit(Drop((request,)))
        if isinstance(verdict, Refused):
            self._emit(Answered(request, verdict))
        elif isinstance(verdict, StagedAgain):
            self._emit(Answered(request, Staged(push.clock, verdict.progress.missing(push.parts))))
        elif verdict.record.disposition is None:
            verdict.record.waiters.append((request, push))
        else:
            group = self.groups[push.group]
            group.tell(request, push, verdict.member, verdict.record, now, Reason.REPEATED)

    def _take_push(self, request: int, push: Push, member: Incarnation, now: float) -> None:
        group = self.groups[push.group]
        record = group.pushes.take(request, push, member, now)
        if record:
            # Before the pull that may have come with it is looked at.
            self._end_run(self.endings.by_figures(push.metrics, group.name, group.published))
            if record.disposition is not None:
                group.tell(request, push, member, record, now)

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
            self._emit(Drop((request,)))
            self._emit(Answered(request, plan))
            return
        names = tuple(spec.name for specs in plan.new.values() for spec in specs)
        storing = {} if offer.ask else plan.new
        reply = Offered((), plan.kept, wanted=names) if offer.ask else Offered(names, plan.kept)
        # The question too says what a group is; only values have to wait until they are sent.
        for name in plan.of_file:
            self.groups[name].from_file = True
        if plan.whole is not None and plan.whole not in plan.new.keys() - storing.keys():
            self.groups[plan.whole].whole = True
            self.groups[plan.whole].from_file = False
        if not storing and not plan.adoptions:
            self._emit(Drop((request,)))
            self._emit(Answered(request, reply))
            return
        offering = Offering(request, reply, groups_left=len(storing) + len(plan.adoptions))
        for name, specs in storing.items():
            self.groups[name].offerings.add(tuple(specs), offering)
        for name, adoption in plan.adoptions.items():
            self.groups[name].offerings.adopt(adoption, offering)

    # Policies.

    def _set_policy(self, request: int, wanted: SetPolicy) -> None:
        group = self.groups.get(wanted.group)
        if not group:
            self._emit(Answered(request, self._unknown_group(wanted.group)))
            return
        try:
            state = group.set_policy(wanted.terms)
        except ValueError as error:
            self._emit(Answered(request, refuse(Code.INVALID_VALUE, str(error))))
            return
        self._emit(Answered(request, state))

    def _stopping(self) -> Refused:
        return refuse(Code.STOPPING, "the server is stopping; ask again when it is back")

    def _unknown_group(self, name: str) -> Refused:
        return refuse(Code.UNKNOWN_GROUP, f"there is no group {name!r}; this server has {', '.join(self.groups)}")
