"""Who joins, and what becomes of it: a worker's life begins at once, a replica's when all its stages are there.

A process is known by the id that it has drawn (`session`). A worker draws another one for each life. A stage keeps its
own over all of them, for a life ends by any stage and the others go on in the next; whose place another process has
taken is fenced for good, in whatever order they come back.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from leeway.protocol import limits, parts
from leeway.protocol.codes import Code
from leeway.protocol.membership import Joined
from leeway.protocol.pulls import NotYet
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused, refuse
from leeway.protocol.replicas import Replica, Stage
from leeway.ps.core.effects import Answered, Began, Create, Forgotten, Parked
from leeway.ps.core.forming import Forming, Gathered, difference, owned_twice

if TYPE_CHECKING:
    from leeway.protocol.membership import Join
    from leeway.protocol.replicas import Place
    from leeway.ps.core.lives import Incarnation, Seat
    from leeway.ps.core.machine import Machine

# Processes of one stage that are remembered, the newest last. One that comes back after more has a new id's rights.
REMEMBERED_PROCESSES = 16


class Joins:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._membership = machine.membership
        # Replicas that have no life at present, by rank.
        self.forming: dict[str, Forming] = {}
        # By rank and stage, the processes that have asked for that place, in the order in which they first did.
        self.processes: dict[str, dict[int, deque[str]]] = {}

    def take(self, request: int, join: Join, now: float) -> None:
        refused = (
            self._machine.quarantines.refusal(join.rank)
            or self._judge_groups(join)
            or (self._judge_place(join, join.place) if join.place else None)
        )
        if refused:
            self._say(request, refused)
        elif join.place:
            self._take_stage(request, join, join.place, now)
        else:
            self._take_worker(request, join, now)

    # A worker.

    def _take_worker(self, request: int, join: Join, now: float) -> None:
        member = self._membership.of_session(join.rank, join.session)
        if member and member.ended:
            self._say(request, member.refusal())
            return
        resumed = member is not None
        if not member:
            self._replace(join.rank)
            if not self._membership.has_room(join.rank):
                self._say(request, refuse(Code.BUSY, "too many ranks have joined this server"))
                return
            member = self._begin(join.rank, (self._membership.new_seat(join.session, now),))
        if join.revision >= member.revision:  # else it is an old one that comes late, or twice
            member.one_after_another, member.revision = join.one_after_another, join.revision
            self._enter(member, join)
        self._membership.renew(member.seats[0], now)
        self._say(request, self._joined(member, resumed=resumed))

    def _replace(self, rank: str) -> None:
        """A new process takes the rank, whoever has had it."""
        if old := self._membership.of_rank(rank):
            detail = f"{old} was replaced by a new process of rank {rank}"
            self._machine.end(old, Reason.NEW_SESSION, detail)
        self.turn_away(rank, refuse(Code.FENCED, f"a new process has taken the rank {rank}", last={}))

    # A stage.

    def _judge_place(self, join: Join, place: Place) -> Refused | None:
        """Why it cannot have this place, whoever has it now."""
        if len(self._groups_of(join)) > 1:
            groups = ", ".join(self._machine.groups)
            return refuse(Code.INVALID_VALUE, f"the stages of a replica share one group; name one of {groups}")
        if join.create:
            return refuse(Code.INVALID_VALUE, "a replica joins a group that is there; 'create' is for a worker's parts")
        known = self.processes.get(join.rank, {}).get(place.stage)
        if known and join.session in known and join.session != known[-1]:
            newer = f"stage {place.stage} of {join.rank} has been taken by a newer process"
            return refuse(Code.FENCED, newer, last={})
        if self._machine.over is not None or self._machine.finished:
            return self._machine.complete()
        if not self._membership.has_room(join.rank):
            return refuse(Code.BUSY, "too many ranks have joined this server")
        return self._misfit(join, place)

    def _misfit(self, join: Join, place: Place) -> Refused | None:
        """What differs from the other stages of the rank: a newcomer that does not fit them changes nothing."""
        live, forming = self._membership.of_rank(join.rank), self.forming.get(join.rank)
        (group,) = self._groups_of(join)
        words = None
        if live and live.is_replica:
            others = [seat for seat in live.seats if seat.stage != place.stage]
            if others and others[0].place:
                words = difference(live.stages, others[0].place.plan, place) or owned_twice(place, others)
        elif forming:
            words = forming.difference(place, group) or owned_twice(place, forming.seats.values())
        if words is None:
            return None
        advice = "start all stages of a replica alike, or stop all of them before you change that"
        return refuse(Code.STAGES_DIFFER, f"stage {place.stage} of {join.rank} does not fit: {words}; {advice}")

    def _groups_of(self, join: Join) -> tuple[str, ...]:
        return join.groups or tuple(group.name for group in self._machine.settings.groups)

    def _take_stage(self, request: int, join: Join, place: Place, now: float) -> None:
        live = self._membership.of_rank(join.rank)
        if live and live.is_replica:
            seat = live.seats[place.stage]
            if seat.session == join.session:
                seat.place = place
                self._membership.renew(seat, now)
                self._say(request, self._joined(live, resumed=True))
                return
            newer = f"stage {place.stage} of {live} began anew: in another process, or in its own after it gave up"
            self._machine.end(live, Reason.NEW_SESSION, newer, place.stage)
        elif live:
            self._replace(join.rank)
        self._sit_down(request, join, place, now)

    def _sit_down(self, request: int, join: Join, place: Place, now: float) -> None:
        """In the replica that is forming."""
        (group,) = self._groups_of(join)
        forming = self.forming.get(join.rank)
        if forming is None or forming.is_otherwise(place, group):
            # Nobody else is there, or it would not fit: from here on it is as this one has it.
            stale, forming = forming, Forming(place.stages, place.plan, group)
            self.forming[join.rank] = forming
            if stale:
                self._dismiss(stale, refuse(Code.FENCED, f"a newer process has come for {join.rank}", last={}))
        seat = forming.seats.get(place.stage)
        if seat and seat.session != join.session:
            newer = f"stage {place.stage} of {join.rank} has been taken by a newer process"
            self._answer(forming, forming.requests_of(place.stage), refuse(Code.FENCED, newer, last={}))
            seat = None
        if seat is None:
            seat = forming.seats[place.stage] = self._membership.new_seat(join.session, now, place)
        seat.place = place
        forming.expected.pop(place.stage, None)
        known = self.processes.setdefault(join.rank, {}).setdefault(place.stage, deque(maxlen=REMEMBERED_PROCESSES))
        if join.session not in known:
            known.append(join.session)
        self._membership.know(join.rank)
        self._membership.asks(request, seat, now)
        newer_join = NotYet(Reason.REPLACED, "a newer join of this stage was asked in place of this one")
        self._answer(forming, forming.requests_of(place.stage), newer_join)
        wait_seconds = join.wait_seconds or 0.0
        forming.waiting[request] = Gathered(seat, wait_seconds, now + wait_seconds)
        if not forming.missing:
            self._form(join, forming)
        elif join.wait_seconds is None:
            self._answer(forming, [request], self._not_yet(join.rank, forming))
        else:
            why = self._not_yet(join.rank, forming)
            self._machine.emit(Parked(request, None, join.rank, 0, why.reason, why.detail, (), place.stage))

    def _form(self, join: Join, forming: Forming) -> None:
        """All stages are there: the life begins."""
        del self.forming[join.rank]
        seats = tuple(forming.seats[stage] for stage in range(forming.stages))
        member = self._begin(join.rank, seats)
        self._machine.groups[forming.group].enter(member)
        for request in list(forming.waiting):
            self._answer(forming, [request], self._joined(member, resumed=False))

    def _not_yet(self, rank: str, forming: Forming) -> NotYet:
        missing = ",".join(map(str, forming.missing))
        of = f"{rank} waits for its stages {missing} of {forming.stages}"
        return NotYet(Reason.WAITING_FOR_STAGES, of)

    # Lives begin and end.

    def _begin(self, rank: str, seats: tuple[Seat, ...]) -> Incarnation:
        member = self._membership.begin(rank, seats)
        self._machine.emit(Began(rank, member.number, member.stages if member.is_replica else None))
        return member

    def ended(self, member: Incarnation) -> None:
        """The other stages of a replica come back for the next life, unless the run is over."""
        if not member.is_replica or self._machine.over is not None or self._machine.finished:
            return
        lost = member.culprit
        (group,) = member.groups
        place = member.seats[0].place
        assert place is not None
        expected = {stage: seat for stage, seat in enumerate(member.seats) if stage != lost and not seat.left}
        forming = Forming(member.stages, place.plan, group, expected=expected)
        if not forming.deserted:
            self.forming[member.rank] = forming

    def _joined(self, member: Incarnation, *, resumed: bool) -> Joined:
        machine, live = self._machine, self._membership.live()
        replica = None
        if member.is_replica:
            places = [seat.place for seat in member.seats]
            replica = Replica(tuple(Stage(place.address, place.notes) for place in places if place))
        return Joined(
            epoch=machine.epoch,
            incarnation=member.number,
            resumed=resumed,
            lease_seconds=machine.settings.lease_seconds,
            index=live.index(member),
            count=len(live),
            groups={name: machine.groups[name].state_for(member) for name in member.groups},
            barriers=machine.barriers.generations(),
            until=machine.settings.until,
            limits=machine.settings.capacity,
            replica=replica,
        )

    # Groups.

    def _judge_groups(self, join: Join) -> Refused | None:
        """Why the groups that it names cannot be joined."""
        groups = self._machine.groups
        for name in join.groups or ():
            if name not in groups and name not in join.create:
                return self._machine.unknown_group(name)
        new = [name for name in dict.fromkeys(join.create) if name not in groups]
        if len(groups) + len(new) > limits.MAX_GROUPS:
            most = f"a server has {limits.MAX_GROUPS} groups at most, and this one has {len(groups)}"
            return refuse(Code.INVALID_VALUE, f"{most}; {', '.join(new)} cannot be made")
        for name in new:
            for other in groups.values():
                if key := next((key for key in other.specs if key.startswith(parts.prefix(name))), None):
                    its = f"its key {key!r} is in group {other.name}"
                    return refuse(Code.SCHEMA_CONFLICT, f"group {name!r} cannot be made, {its}; choose another name")
        return None

    def _enter(self, member: Incarnation, join: Join) -> None:
        """Have the life be in the groups that the join names. Asked again, it may name others: those are entered, and
        of the rest those are left in which it has done nothing.
        """
        groups = self._machine.groups
        if join.groups is None:
            wanted = () if member.groups else self._groups_of(join)
        else:
            wanted = join.groups
            for name in [name for name in member.groups if name not in wanted]:
                group = groups[name]
                if group.is_unused_by(member):
                    group.exit(member, member.refusal)  # nothing of it waits there that would be told
                    self._machine.may_circle()
                    del member.groups[name]
        for name in wanted:
            if name not in groups:
                self._machine.create(name)
                self._machine.emit(Create(name))
            if name not in member.groups:
                groups[name].enter(member)

    # Time, and those who go.

    def expire(self, now: float) -> None:
        """Who was silent for its lease is there no more; who has waited long enough is told for whom."""
        for rank, forming in list(self.forming.items()):
            for seats in (forming.expected, forming.seats):
                for stage in [stage for stage, seat in seats.items() if self._membership.seat_left(seat, now) <= 0]:
                    del seats[stage]
                    self._machine.emit(Forgotten(rank, stage))
            late = [request for request, gathered in forming.waiting.items() if gathered.until <= now]
            self._answer(forming, late, self._not_yet(rank, forming))
            if forming.deserted:
                del self.forming[rank]

    def paused(self, seconds: float, now: float) -> None:
        """The last `seconds` count against nobody."""
        for forming in self.forming.values():
            for seat in (*forming.seats.values(), *forming.expected.values()):
                self._membership.seat_paused(seat, seconds, now)
            for gathered in forming.waiting.values():
                gathered.until = min(gathered.until + seconds, now + gathered.wait_seconds)

    def gone(self, request: int) -> None:
        """The asker's connection is gone; that its stage is there stays true."""
        for forming in self.forming.values():
            forming.waiting.pop(request, None)

    def leave(self, rank: str, seat: Seat) -> None:
        """A process says goodbye whose life has ended: it does not come for the next one."""
        forming, stage = self.forming.get(rank), seat.stage
        if forming is None or stage is None:
            return
        for places in (forming.seats, forming.expected):
            if (there := places.get(stage)) and there.session == seat.session:
                del places[stage]
                gone = refuse(Code.LEFT, f"stage {stage} of {rank} has left", last={})
                self._answer(forming, forming.requests_of(stage), gone)
        if forming.deserted:
            del self.forming[rank]

    def turn_away(self, rank: str, refusal: Refused) -> None:
        """No life of this rank begins."""
        if forming := self.forming.pop(rank, None):
            self._dismiss(forming, refusal)

    def dismiss(self, refusal: Refused) -> None:
        """Nobody waits any more."""
        for forming in self.forming.values():
            self._dismiss(forming, refusal)
        self.forming.clear()

    def _dismiss(self, forming: Forming, refusal: Refused) -> None:
        self._answer(forming, list(forming.waiting), refusal)

    def _answer(self, forming: Forming, requests: list[int], reply: Joined | NotYet | Refused) -> None:
        for request in requests:
            del forming.waiting[request]
            self._say(request, reply)

    def _say(self, request: int, reply: Joined | NotYet | Refused) -> None:
        self._machine.emit(Answered(request, reply))
