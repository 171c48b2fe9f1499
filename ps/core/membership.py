"""Who is live: ranks, their lives (incarnations), sessions and leases.

A process with a request that is not answered yet is not silent: its lease does not run. It runs anew from the answer,
or from the moment at which the asker is gone; and from the moment at which others wait for its life elsewhere than it
waits, for then heartbeats alone say that it lives. A replica lives as long as all its stages do.

Invariants: at most one incarnation of a rank is live; the incarnation number only grows; an ended session is never
taken for a new one while it is remembered (the last `REMEMBERED_LIVES` of a rank). Memory is bounded by
`limits.MAX_RANKS` x that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leeway.protocol import limits
from leeway.ps.core.in_order import InOrder
from leeway.ps.core.lives import Incarnation, Seat

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from leeway.protocol.lives import Life
    from leeway.protocol.reasons import Reason
    from leeway.protocol.replicas import Place

# A process that comes back after more lives of its rank than this is taken for a new one. Sixteen restarts in a
# row within one lost message's lifetime do not happen.
REMEMBERED_LIVES = 16


@dataclass(slots=True)
class _Rank:
    """`committed`: how many updates of it were accepted in each group, over all its lives."""

    incarnations: int = 0
    live: Incarnation | None = None
    ended: deque[Incarnation] = field(default_factory=lambda: deque(maxlen=REMEMBERED_LIVES))
    committed: dict[str, int] = field(default_factory=dict)


class Membership:
    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self._ranks: dict[str, _Rank] = {}
        self._asking: dict[int, Seat] = {}
        self._live = InOrder()

    def live(self) -> list[Incarnation]:
        """The live incarnations in natural rank order."""
        return self._live.lives

    def of_rank(self, rank: str) -> Incarnation | None:
        known = self._ranks.get(rank)
        return known.live if known else None

    def of_session(self, rank: str, session: str) -> Incarnation | None:
        """The live or remembered incarnation that this session began. Replicas have none: see `joins`."""
        lives = (life for life in self._lives(rank) if not life.is_replica)
        return next((life for life in lives if life.seats[0].session == session), None)

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

    def has_room(self, rank: str) -> bool:
        """Whether it is known, or not too many others are."""
        return rank in self._ranks or len(self._ranks) < limits.MAX_RANKS

    def know(self, rank: str) -> None:
        """There is room for it from here on, though it may have no life yet."""
        self._ranks.setdefault(rank, _Rank())

    def begin(self, rank: str, seats: tuple[Seat, ...]) -> Incarnation:
        """A new life of this rank, which must have none, and for which there must be room."""
        known = self._ranks.setdefault(rank, _Rank())
        assert known.live is None, f"{known.live} must end before the next life begins"
        known.incarnations += 1
        life = known.live = Incarnation(rank, known.incarnations, seats)
        self._live.put(life)
        return life

    def new_seat(self, session: str, now: float, place: Place | None = None) -> Seat:
        return Seat(session, now + self.lease_seconds, place)

    def end(self, incarnation: Incarnation, reason: Reason, detail: str, culprit: int | None = None) -> None:
        known = self._ranks[incarnation.rank]
        assert known.live is incarnation
        known.live = None
        known.ended.append(incarnation)
        incarnation.ended, incarnation.ended_detail, incarnation.culprit = reason, detail, culprit
        self._live.remove(incarnation)

    def accepted(self, rank: str, group: str) -> None:
        """An update of it, or a skip."""
        committed = self._ranks[rank].committed
        committed[group] = committed.get(group, 0) + 1

    def committed(self, rank: str) -> Mapping[str, int]:
        """How many were accepted so far, by group."""
        known = self._ranks.get(rank)
        return known.committed if known else {}

    def renew(self, seat: Seat, now: float) -> None:
        seat.lease_until = max(seat.lease_until, now + self.lease_seconds)

    def asks(self, request: int, seat: Seat, now: float) -> None:
        """The process is heard of by this request, and lives as long as that is not answered."""
        self.renew(seat, now)
        self._asking[request] = seat
        seat.unanswered += 1

    def answered(self, request: int, now: float) -> None:
        """It is answered, or its asker is gone; which is no departure."""
        seat = self._asking.pop(request, None)
        if seat:
            seat.unanswered -= 1
            self.renew(seat, now)

    def seat_left(self, seat: Seat, now: float, *, missed: bool = False) -> float:
        """Seconds until this process counts as lost, if nothing more is heard of it."""
        return self.lease_seconds if seat.unanswered and not missed else seat.lease_until - now

    def lease_left(self, incarnation: Incarnation, now: float) -> float:
        """Seconds until this life is over, if nothing more is heard of it."""
        missed = incarnation.missed
        return min(self.seat_left(seat, now, missed=missed) for seat in incarnation.seats if not seat.left)

    def is_missed(self, incarnation: Incarnation, now: float, *, missed: bool) -> None:
        """Whether others wait for it, from now on, in a group in which it does not wait."""
        if missed and not incarnation.missed:
            for seat in incarnation.seats:
                self.renew(seat, now)
        incarnation.missed = missed

    def paused(self, seconds: float, now: float) -> None:
        """The last `seconds` count against nobody. Whoever was heard of within them has a whole lease, not more."""
        for incarnation in self.live():
            for seat in incarnation.seats:
                self.seat_paused(seat, seconds, now)

    def seat_paused(self, seat: Seat, seconds: float, now: float) -> None:
        seat.lease_until = min(seat.lease_until + seconds, now + self.lease_seconds)

    def expired(self, now: float) -> list[tuple[Incarnation, Seat]]:
        """The lives that are over, each with the process that was silent for longest."""
        found = []
        for life in self.live():
            left = {self.seat_left(seat, now, missed=life.missed): seat for seat in life.seats if not seat.left}
            if (least := min(left)) <= 0:
                found.append((life, left[least]))
        return found

    def remembered(self) -> dict[str, tuple[int, list[Incarnation]]]:
        """For saving: per rank the incarnation counter and the lives, oldest first, the live one last."""
        return {
            rank: (known.incarnations, [*known.ended, *([known.live] if known.live else [])])
            for rank, known in self._ranks.items()
        }

    def remember(self, rank: str, incarnations: int, lives: list[Incarnation], committed: Mapping[str, int]) -> None:
        """Put back what `remembered` and `committed` gave."""
        living = [incarnation for incarnation in lives if incarnation.ended is None]
        assert len(living) <= 1
        known = _Rank(incarnations, living[0] if living else None, committed=dict(committed))
        known.ended.extend(incarnation for incarnation in lives if incarnation.ended is not None)
        self._ranks[rank] = known
        if known.live:
            self._live.put(known.live)
