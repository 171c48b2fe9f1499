"""The pushes of a group: what becomes of each, and when its iteration is over.

They come here judged, `Fresh` (deduplication.judge), and are accepted once all their parts are there. The one rule:
what is accepted has its record at once, and its disposition when that has fallen; recorded dispositions never change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from leeway.protocol.codes import Code
from leeway.protocol.pushes import Disposition, Staged, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.ps.core.effects import Accepted, Advanced, Answered, Apply, Contribution, Drop, Parked
from leeway.ps.core.in_flight import OnArrival
from leeway.ps.core.policies.policy import Reception
from leeway.ps.core.progress import Part, Record
from leeway.ps.core.rounds import Held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from leeway.protocol.pushes import Push
    from leeway.protocol.refusals import Refused
    from leeway.ps.core.lives import Incarnation
    from leeway.ps.core.progress import Progress
    from leeway.ps.core.pulls import Pulls
    from leeway.ps.core.situation import Situation


class Taken(NamedTuple):
    """A push of which all parts are in: its record, without a disposition while it is still to be applied; and the
    figures that came with any of its parts."""

    record: Record
    figures: Mapping[str, float]


@dataclass(slots=True)
class _Awaiting:
    request: int
    push: Push
    until: float


class Pushes:
    def __init__(self, group: Situation, pulls: Pulls) -> None:
        self._group = group
        self._pulls = pulls
        # Stages that have handed in their parts, and wait for those of the others.
        self._awaiting: dict[tuple[Incarnation, int | None], _Awaiting] = {}

    def take(self, request: int, push: Push, member: Incarnation, norm: float | None, now: float) -> Taken | None:
        """None: the push is refused, or staged."""
        group = self._group
        progress = member.groups[group.name]
        if misplaced := self._misplaced(push, member):
            group.emit(Drop((request,)))
            group.emit(Answered(request, misplaced))
            return None
        # Who has been moved on already may be a member of the open round, but not with this push.
        moved = progress.has_passed(push.clock)
        reception = Reception.LATE if moved else group.policy.push(group, member.rank)
        if misfit := self._misfit(push.kind, reception):
            group.emit(Drop((request,)))
            group.emit(Answered(request, refuse(Code.INVALID_VALUE, misfit)))
            return None
        if push.kind is UpdateKind.SKIP or reception is Reception.LATE:
            group.drop_staged(progress)
            group.emit(Drop((request,)))
            bodies: tuple[int, ...] = ()
            figures = push.metrics
        else:
            if excess := self._excess(push, progress, norm):
                group.emit(Drop((request,)))
                group.emit(Answered(request, group.quarantines.refused(member, excess)))
                return None
            progress.staged[push.part] = Part(request, push, norm)
            if missing := progress.missing(push.parts):
                self._stage(request, push, member, missing, now)
                return None
            parts = [progress.staged[part] for part in range(push.parts)]
            bodies = tuple(part.request for part in parts)
            figures = {name: value for part in parts for name, value in part.push.metrics.items()}
            self._is_usual(member.rank, push.kind, parts)
            progress.staged.clear()
            group.schema_closed = True
        return Taken(self._accept(request, push, member, bodies, figures, reception, now), figures)

    def _misplaced(self, push: Push, member: Incarnation) -> Refused | None:
        """What is wrong with a stage's part: it is the one of its number, and of its own tensors."""
        if not member.is_replica or push.kind is UpdateKind.SKIP:
            return None
        stage = push.life.stage
        if (push.part, push.parts) != (stage, member.stages):
            its = f"stage {stage} of {member} pushes part {stage} of {member.stages}"
            return refuse(Code.INCONSISTENT_PARTS, f"{its}, and not part {push.part} of {push.parts}")
        place = member.seats[stage or 0].place
        if place and place.owned is not None and (strange := set(push.keys).difference(place.owned)):
            name = min(strange)
            owned = f"tensor {name!r} is not among those that stage {stage} of {member} owns"
            return refuse(Code.UNKNOWN_TENSOR, f"{owned}; the stage that owns it pushes the sum", tensor=name)
        return None

    def _excess(self, push: Push, progress: Progress, norm: float | None) -> str | None:
        """Why the update is too large, with what is there of it; None: it is not, or nobody has measured it."""
        if norm is None:
            return None
        norms = (part.norm or 0.0 for part in progress.staged.values())
        return self._group.norms.excess(push.kind, math.hypot(norm, *norms))

    def _is_usual(self, rank: str, kind: UpdateKind, parts: Iterable[Part]) -> None:
        self._group.quarantines.accepted(rank)
        norms = [part.norm for part in parts if part.norm is not None]
        if norms:
            self._group.norms.accepted(rank, kind, math.hypot(*norms))

    def _stage(self, request: int, push: Push, member: Incarnation, missing: tuple[int, ...], now: float) -> None:
        """Some parts are missing: a stage's request waits for those of the other stages."""
        group = self._group
        if not member.is_replica or push.wait_seconds is None:
            group.emit(Answered(request, Staged(push.clock, missing)))
            return
        if older := self._awaiting.get((member, push.part)):
            group.emit(Answered(older.request, Staged(push.clock, missing)))
        self._awaiting[member, push.part] = _Awaiting(request, push, now + push.wait_seconds)
        detail = f"the push of iteration {push.clock} of {member} waits for the parts of stages {_listed(missing)}"
        reason = Reason.WAITING_FOR_STAGES
        group.emit(Parked(request, group.name, member.rank, member.number, reason, detail, (), push.life.stage))

    def staged_again(self, request: int, push: Push, member: Incarnation, now: float) -> None:
        """This part is there already."""
        progress = member.groups[self._group.name]
        self._stage(request, push, member, progress.missing(push.parts), now)

    def exited(self, member: Incarnation, refusal: Callable[[int | None], Refused]) -> None:
        """The life has ended: what is staged goes with it, and who waits for other parts is told so."""
        self._group.drop_staged(member.groups[self._group.name])
        for awaiting in self._no_longer_await(member):
            self._group.emit(Answered(awaiting.request, refusal(awaiting.push.life.stage)))

    def _no_longer_await(self, member: Incarnation) -> list[_Awaiting]:
        """Those of its stages that waited, in their order."""
        if not self._awaiting:
            return []
        found = (self._awaiting.pop((member, stage), None) for stage in range(member.stages))
        return [awaiting for awaiting in found if awaiting]

    def expire(self, now: float) -> None:
        """Tell those whose wait for the other parts has run out; their own stay staged."""
        for (member, part), awaiting in list(self._awaiting.items()):
            if awaiting.until <= now:
                del self._awaiting[member, part]
                missing = member.groups[self._group.name].missing(member.stages)
                self._group.emit(Answered(awaiting.request, Staged(awaiting.push.clock, missing)))

    def paused(self, seconds: float, now: float) -> None:
        """The last `seconds` are part of nobody's wait."""
        for awaiting in self._awaiting.values():
            assert awaiting.push.wait_seconds is not None, "who does not want to wait is not here"
            awaiting.until = min(awaiting.until + seconds, now + awaiting.push.wait_seconds)

    def stop(self, refusal: Refused) -> None:
        """Nobody waits any more."""
        for awaiting in self._awaiting.values():
            self._group.emit(Answered(awaiting.request, refusal))
        self._awaiting.clear()

    def _misfit(self, kind: UpdateKind, reception: Reception) -> str | None:
        """Why an update of this kind cannot be taken now."""
        if kind is UpdateKind.MODEL and reception is Reception.ON_ARRIVAL:
            return (
                f"whole weights (kind model) are for rounds; under {self._group.policy.terms.mode} each update is a"
                " step of its own: push a delta, which is what was pulled minus what it has become"
            )
        rounds = self._group.rounds
        gathered = rounds.kind if reception is Reception.IN_ROUND and kind is not UpdateKind.SKIP else None
        if gathered not in (None, kind):
            return f"round {rounds.number} gathers updates of kind {gathered}, not {kind}"
        return None

    def _accept(
        self,
        request: int,
        push: Push,
        member: Incarnation,
        bodies: tuple[int, ...],
        figures: Mapping[str, float],
        reception: Reception,
        now: float,
    ) -> Record:
        group = self._group
        progress = member.groups[group.name]
        record = Record(push.clock, push.parts, Reason.SKIPPED)
        progress.record = record
        group.membership.accepted(member.rank, group.name)
        # Stages that wait for the others' parts are told with whoever brought the last one.
        record.waiters += [(awaiting.request, awaiting.push) for awaiting in self._no_longer_await(member)]
        if push.kind is not UpdateKind.SKIP:
            progress.kind = push.kind
        next_clock = progress.clock if progress.has_passed(push.clock) else group.rounds.next_number
        # Who pushes has heard where it was moved to; while this push is being applied an older one does not replace it.
        progress.passed = None
        if reception is Reception.IN_ROUND:
            group.rounds.contribute(member.rank, Held(push.kind, push.samples, bodies), now)
        if reception is Reception.LATE:
            record.disposition, record.reason = Disposition.LATE, Reason.ROUND_CLOSED
            record.next_clock = next_clock
        elif not bodies:
            record.disposition = Disposition.SKIPPED
        elif reception is Reception.IN_ROUND:
            record.disposition, record.reason = Disposition.HELD, Reason.IN_ROUND
        else:
            record.reason = Reason.ON_ARRIVAL
        disposition, reason = record.disposition, record.reason
        group.emit(Accepted(request, group.name, member.rank, push.clock, disposition, reason, push.samples, figures))
        if disposition is None:
            self._apply(request, push, member, bodies, record)
        elif record.next_clock != progress.clock:
            self._advance(member, record.next_clock)
        return record

    def _apply(self, request: int, push: Push, member: Incarnation, bodies: tuple[int, ...], record: Record) -> None:
        """The update makes a version of its own; the push is answered when that is published."""
        group = self._group
        self._pulls.pushed(member)
        number = group.decide(OnArrival(member, record))
        record.version = member.groups[group.name].owed = number
        record.staleness = number - push.version - 1
        record.waiters.insert(0, (request, push))
        group.emit(
            Apply(
                group.name,
                number,
                push.kind,
                (Contribution(member.rank, push.samples, bodies),),
                aggregated=False,
                live=group.live_workers,
                staleness=record.staleness,
            )
        )

    def applied(self, step: OnArrival, *, failed: bool) -> list[tuple[int, Push]]:
        """The version of this update is published. Returns the requests that wait to be told, the first one first."""
        step.record.settle(failed=failed)
        self._advance(step.member)
        waiters, step.record.waiters = step.record.waiters, []
        return waiters

    def _advance(self, member: Incarnation, to: int | None = None) -> None:
        """The iteration is over."""
        group = self._group
        progress = member.groups[group.name]
        over = progress.clock
        clock = over + 1 if to is None else to
        if member.ended:
            progress.go_on(clock)
            return
        group.roster.go_on(member, clock)
        group.emit(Advanced(group.name, member.rank, clock))
        self._pulls.advanced(member, over, clock)

    def gone(self, request: int) -> None:
        """The asker is no longer there: it does not wait for what is still being applied."""
        for step in self._group.in_flight.values():
            if isinstance(step, OnArrival):
                step.record.waiters = [waiter for waiter in step.record.waiters if waiter[0] != request]
        self._awaiting = {key: awaiting for key, awaiting in self._awaiting.items() if awaiting.request != request}


def _listed(stages: tuple[int, ...]) -> str:
    return ",".join(str(stage) for stage in stages)
