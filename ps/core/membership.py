"""Who is live: ranks, their lives (incarnations), sessions and leases.

A life with a request that is not answered yet is not silent: its lease does not run. It runs anew from the answer, or
from the moment at which the asker is gone; and from the moment at which others wait for it elsewhere than it waits, for
then heartbeats alone say that it lives.

Invariants: at most one incarnation of a rank is live; the incarnation number only grows; an ended session is never
taken for a new one while it is remembered (the last `REMEMBERED_LIVES` of a rank). Memory is bounded by
`limits.MAX_RANKS` x that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leeway.protocol import limits
from leeway.protocol.codes import Code
from leeway.protocol.pushes import LastPush
from leeway.protocol.ranks import natural
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leeway.protocol.lives import Life
    from leeway.ps.core.progress import Progress

# A process that comes back after more lives of its rank than this is taken for a new one. Sixteen restarts in a
# row within one lost message's lifetime do not happen.
REMEMBERED_LIVES = 16

_ENDED_CODE = {
    Reason.LEFT: Code.LEFT,
    Reason.NEW_SESSION: Code.FENCED,
    Reason.LEASE_EXPIRED: Code.EVICTED,
    Reason.ITERATION_TOO_LONG: Code.EVICTED,
}


@dataclass(slots=True, eq=False)
class Incarnation:
    """One life of a rank. `groups`: its progress in each group it joined; kept after the end, for late repeats.

    `one_after_another`: it never asks for one thing while it waits for another. `unanswered`: how many of its requests
    wait for their answers. `missed`: it waits in some groups, and others wait for it in another. `revision`: of the
    newest join that it was told its groups with.
    """

    rank: str
    number: int
    session: str
    lease_until: float
    groups: dict[str, Progress] = field(default_factory=dict)
    ended: Reason | None = None
    ended_detail: str = ""
    one_after_another: bool = False
    revision: int = 0
    unanswered: int = 0
    missed: bool = False

    def __str__(self) -> str:
        return f"{self.rank}#{self.number}"

    def last_pushes(self) -> dict[str, LastPush]:
        return {
            group: LastPush(progress.record.clock, progress.record.disposition)
            for group, progress in self.groups.items()
            if progress.record
        }

    def refusal(self) -> Refused:
        """What an ended incarnation is told, with its last disposition, so that a lost reply is resolved."""
        assert self.ended is not None
        last = {group: push.to_fields() for group, push in self.last_pushes().items()}
        return refuse(_ENDED_CODE[self.ended], self.ended_detail, last=last)


@dataclass(slots=True)
class _Rank:
    incarnations: int = 0
    live: Incarnation | None = None
    ended: deque[Incarnation] = field(default_factory=lambda: deque(maxlen=REMEMBERED_LIVES))


class Membership:
    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self._ranks: dict[str, _Rank] = {}
        self._asking: dict[int, Incarnation] = {}
        self._order: list[Incarnation] | None = None

    def live(self) -> list[Incarnation]:
        """The live incarnations in natural rank order."""
        if self._order is None:
            living = [rank.live for rank in self._ranks.values() if rank.live]
            self._order = sorted(living, key=lambda incarnation: natural(incarnation.rank))
        return self._order

    def of_rank(self, rank: str) -> Incarnation | None:
        known = self._ranks.get(rank)
        return known.live if known else None

    def of_session(self, rank: str, session: str) -> Incarnation | None:
        """The live or remembered incarnation that this session began."""
        return next((incarnation for incarnation in self._lives(rank) if incarnation.session == session), None)

    def find(self, life: Life) -> Incarnation | None:
        """The live or remembered incarnation of this number."""
        return next(
            (incarnation for incarnation in self._lives(life.rank) if incarnation.number == life.incarnation), None
        )

    def forgotten(self, life: Life) -> bool:
        """Whether such an incarnation has been, too long ago to be remembered."""
        known = self._ranks.get(life.rank)
        return known is not None and life.incarnation <= known.incarnations and self.find(life) is None

    def _lives(self, rank: str) -> Iterator[Incarnation]:
        known = self._ranks.get(rank)
        if known:
            if known.live:
                yield known.live
            yield from reversed(known.ended)

    def begin(self, rank: str, session: str, now: float) -> Incarnation | None:
        """A new life of this rank, which must have none; None when there are too many ranks."""
        if rank not in self._ranks and len(self._ranks) >= limits.MAX_RANKS:
            return None
        known = self._ranks.setdefault(rank, _Rank())
        assert known.live is None, f"{known.live} must end before the next life begins"
        known.incarnations += 1
        known.live = Incarnation(rank, known.incarnations, session, now + self.lease_seconds)
        self._order = None
        return known.live

    def end(self, incarnation: Incarnation, reason: Reason, detail: str) -> None:
        known = self._ranks[incarnation.rank]
        assert known.live is incarnation
        known.live = None
        known.ended.append(incarnation)
        incarnation.ended, incarnation.ended_detail = reason, detail
        self._order = None

    def renew(self, incarnation: Incarnation, now: float) -> None:
        incarnation.lease_until = max(incarnation.lease_until, now + self.lease_seconds)

    def asks(self, request: int, incarnation: Incarnation, now: float) -> None:
        """The life is heard of by this request, and is as long as that is not answered."""
        self.renew(incarnation, now)
        self._asking[request] = incarnation
        incarnation.unanswered += 1

    def answered(self, request: int, now: float) -> None:
        """It is answered, or its asker is gone; which is no departure."""
        incarnation = self._asking.pop(request, None)
        if incarnation:
            incarnation.unanswered -= 1
            self.renew(incarnation, now)

    def lease_left(self, incarnation: Incarnation, now: float) -> float:
        """Seconds until this life is over, if nothing more is heard of it."""
        waits = incarnation.unanswered and not incarnation.missed
        return self.lease_seconds if waits else incarnation.lease_until - now

    def is_missed(self, incarnation: Incarnation, now: float, *, missed: bool) -> None:
        """Whether others wait for it, from now on, in a group in which it does not wait."""
        if missed and not incarnation.missed:
            self.renew(incarnation, now)
        incarnation.missed = missed

    def paused(self, seconds: float, now: float) -> None:
        """The last `seconds` count against nobody. Whoever was heard of within them has a whole lease, not more."""
        for incarnation in self.live():
            incarnation.lease_until = min(incarnation.lease_until + seconds, now + self.lease_seconds)

    def expired(self, now: float) -> list[Incarnation]:
        return [incarnation for incarnation in self.live() if self.lease_left(incarnation, now) <= 0]

    def remembered(self) -> dict[str, tuple[int, list[Incarnation]]]:
        """For saving: per rank the incarnation counter and the lives, oldest first, the live one last."""
        return {
            rank: (known.incarnations, [*known.ended, *([known.live] if known.live else [])])
            for rank, known in self._ranks.items()
        }

    def remember(self, rank: str, incarnations: int, lives: list[Incarnation]) -> None:
        """Put back what `remembered` gave."""
        living = [incarnation for incarnation in lives if incarnation.ended is None]
        assert len(living) <= 1
        known = _Rank(incarnations, living[0] if living else None)
        known.ended.extend(incarnation for incarnation in lives if incarnation.ended is not None)
        self._ranks[rank] = known
        self._order = None
