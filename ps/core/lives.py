"""One life of a rank: who holds it, how far it is in each group, and how it ended.

A worker's life has one seat. That of a replica has one for each stage, each held by another process with a lease of its
own; all else is the replica's: clock, grant, record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leeway.protocol.codes import Code
from leeway.protocol.pushes import LastPush
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused, refuse

if TYPE_CHECKING:
    from leeway.protocol.replicas import Place
    from leeway.ps.core.progress import Progress

_ENDED_CODE = {
    Reason.LEFT: Code.LEFT,
    Reason.NEW_SESSION: Code.FENCED,
    Reason.LEASE_EXPIRED: Code.EVICTED,
    Reason.ITERATION_TOO_LONG: Code.EVICTED,
    Reason.GRANT_LOST: Code.STAGE_LOST,
    Reason.QUARANTINED: Code.QUARANTINED,
}


@dataclass(slots=True, eq=False)
class Seat:
    """A process's place in a life: a worker's only one, or a stage's.

    `session`: the id that the process has drawn. `place`: as a stage has asked for it. `unanswered`: how many of its
    requests wait for their answers. `left`: it has said goodbye, and the life goes on to its end without it.
    """

    session: str
    lease_until: float
    place: Place | None = None
    unanswered: int = 0
    left: bool = False

    @property
    def stage(self) -> int | None:
        return None if self.place is None else self.place.stage


@dataclass(slots=True, eq=False)
class Incarnation:
    """One life of a rank. `groups`: its progress in each group it joined; kept after the end, for late repeats.

    `culprit`: the stage by which a replica's life ended; None: not by one. `one_after_another`: it never asks for one
    thing while it waits for another. `missed`: it waits in some groups, and others wait for it in another.
    `revision`: of the newest join that it was told its groups with.
    """

    rank: str
    number: int
    seats: tuple[Seat, ...]
    groups: dict[str, Progress] = field(default_factory=dict)
    ended: Reason | None = None
    ended_detail: str = ""
    culprit: int | None = None
    one_after_another: bool = False
    revision: int = 0
    missed: bool = False

    def __str__(self) -> str:
        return f"{self.rank}#{self.number}"

    @property
    def is_replica(self) -> bool:
        return self.seats[0].place is not None

    @property
    def stages(self) -> int:
        """How many processes it has."""
        return len(self.seats)

    @property
    def unanswered(self) -> int:
        return sum(seat.unanswered for seat in self.seats)

    def seat(self, stage: int | None) -> Seat | Refused:
        """That of this stage; None: of a worker that is no replica."""
        if self.is_replica:
            if stage is None:
                many = f"{self} is a replica of {self.stages} stages: a request says which one asks (stage)"
                return refuse(Code.INVALID_VALUE, many)
            if stage >= self.stages:
                return refuse(Code.INVALID_VALUE, f"{self} has the stages 0 to {self.stages - 1}, and no stage {stage}")
        elif stage is not None:
            return refuse(Code.INVALID_VALUE, f"{self} is one process, and no replica that has a stage {stage}")
        return self.seats[stage or 0]

    def last_pushes(self) -> dict[str, LastPush]:
        return {
            group: LastPush(progress.record.clock, progress.record.disposition)
            for group, progress in self.groups.items()
            if progress.record
        }

    def refusal(self, stage: int | None = None) -> Refused:
        """What an ended life is told, with its last disposition, so that a lost reply is resolved: in a replica
        something else than the stage by which it ended.
        """
        assert self.ended is not None
        code = _ENDED_CODE[self.ended]
        if self.culprit not in (None, stage):
            code = Code.STAGE_REPLACED if self.ended is Reason.NEW_SESSION else Code.STAGE_LOST
        last = {group: push.to_fields() for group, push in self.last_pushes().items()}
        return refuse(code, self.ended_detail, last=last)
