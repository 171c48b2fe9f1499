"""Named barriers, beside the policies. A barrier is (name, generation).

A generation is passed when all that were live at its first arrival, and still are, have arrived, and at least
`parties` have. Repeats of a request return at once. The dead are not waited for. A replica has arrived when all its
stages have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leeway.protocol import limits
from leeway.protocol.barriers import Passed
from leeway.protocol.codes import Code
from leeway.protocol.pulls import NotYet
from leeway.protocol.ranks import natural
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused, refuse
from leeway.ps.core.decisions import in_words
from leeway.ps.core.effects import Answered, Parked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from leeway.protocol.barriers import Barrier
    from leeway.ps.core.effects import Effect
    from leeway.ps.core.lives import Incarnation


@dataclass(slots=True)
class _Arrival:
    """A request that waits at a barrier."""

    member: Incarnation
    stage: int | None
    wait_seconds: float
    until: float


@dataclass(slots=True)
class _Named:
    generation: int = 0
    parties: int = 1
    expected: set[Incarnation] = field(default_factory=set)
    arrived: set[Incarnation] = field(default_factory=set)
    stages: dict[Incarnation, set[int | None]] = field(default_factory=dict)
    waiting: dict[int, _Arrival] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(sorted((member.rank for member in self.expected - self.arrived), key=natural))

    @property
    def complete(self) -> bool:
        return bool(self.arrived) and self.expected <= self.arrived and len(self.arrived) >= self.parties


class Barriers:
    def __init__(self, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self._named: dict[str, _Named] = {}
        self._ended: Refused | None = None

    def generations(self) -> dict[str, int]:
        """The open generation of each barrier: what a joiner must name."""
        return {name: barrier.generation for name, barrier in self._named.items()}

    def restore(self, generations: dict[str, int]) -> None:
        self._named = {name: _Named(generation) for name, generation in generations.items()}

    def arrive(
        self, request: int, asked: Barrier, member: Incarnation, live: Iterable[Incarnation], now: float
    ) -> None:
        if asked.name not in self._named and len(self._named) >= limits.MAX_BARRIERS:
            self._refuse(request, Code.BUSY, f"there are {limits.MAX_BARRIERS} barriers already; reuse a name")
            return
        barrier = self._named.get(asked.name, _Named())
        if asked.generation < barrier.generation:
            self._emit(Answered(request, Passed(asked.name, asked.generation)))
            return
        if asked.generation > barrier.generation:
            self._refuse(
                request,
                Code.INVALID_VALUE,
                f"barrier {asked.name!r} is at generation {barrier.generation}, {asked.generation} was asked for",
                generation=barrier.generation,
            )
            return
        if self._ended is not None:
            self._emit(Answered(request, self._ended))
            return
        self._named[asked.name] = barrier
        if not barrier.stages:
            barrier.expected = set(live)
            barrier.parties = 1
        stages = barrier.stages.setdefault(member, set())
        stages.add(asked.life.stage)
        if len(stages) == member.stages:
            barrier.arrived.add(member)
        barrier.parties = max(barrier.parties, asked.parties)
        wait_seconds = asked.wait_seconds or 0.0
        barrier.waiting[request] = _Arrival(member, asked.life.stage, wait_seconds, now + wait_seconds)
        self._pass_if_complete(asked.name, barrier)
        if request in barrier.waiting:
            if asked.wait_seconds is None:
                self._give_up(asked.name, barrier, request)
            else:
                detail = self._why(asked.name, barrier)
                stage = asked.life.stage
                self._emit(Parked(request, None, member.rank, member.number, Reason.BARRIER, detail, (), stage))

    def depart(self, member: Incarnation) -> None:
        """The life has ended: nobody waits for it any more, and its own requests are told so."""
        for name, barrier in self._named.items():
            barrier.expected.discard(member)
            barrier.arrived.discard(member)
            barrier.stages.pop(member, None)
            for request in [request for request, arrival in barrier.waiting.items() if arrival.member is member]:
                arrival = barrier.waiting.pop(request)
                self._emit(Answered(request, member.refusal(arrival.stage)))
            self._pass_if_complete(name, barrier)

    def paused(self, seconds: float, now: float) -> None:
        """The last `seconds` are not part of anybody's wait."""
        for barrier in self._named.values():
            for arrival in barrier.waiting.values():
                arrival.until = min(arrival.until + seconds, now + arrival.wait_seconds)

    def expire(self, now: float) -> None:
        for name, barrier in self._named.items():
            for request in [request for request, arrival in barrier.waiting.items() if arrival.until <= now]:
                self._give_up(name, barrier, request)

    def gone(self, request: int) -> None:
        """The asker's connection is gone; that it had arrived stays true."""
        for barrier in self._named.values():
            barrier.waiting.pop(request, None)

    def end(self, refusal: Refused) -> None:
        """Nobody passes any more: those who would be waited for have ended too, or will not come."""
        self._ended = refusal
        self.stop(refusal)

    def stop(self, refusal: Refused) -> None:
        for barrier in self._named.values():
            for request in barrier.waiting:
                self._emit(Answered(request, refusal))
            barrier.waiting.clear()

    def _pass_if_complete(self, name: str, barrier: _Named) -> None:
        if not barrier.complete:
            return
        passed = Passed(name, barrier.generation)
        waiting = list(barrier.waiting)
        barrier.generation += 1
        barrier.expected, barrier.arrived, barrier.stages, barrier.waiting = set(), set(), {}, {}
        for request in waiting:
            self._emit(Answered(request, passed))

    def _give_up(self, name: str, barrier: _Named, request: int) -> None:
        del barrier.waiting[request]
        self._emit(Answered(request, NotYet(Reason.BARRIER, self._why(name, barrier), barrier.missing)))

    def _why(self, name: str, barrier: _Named) -> str:
        if barrier.missing:
            return f"barrier {name}/{barrier.generation} waits for {in_words(barrier.missing)}"
        more = barrier.parties - len(barrier.arrived)
        return f"barrier {name}/{barrier.generation} waits for {more} more of {barrier.parties}"

    def _refuse(self, request: int, code: Code, detail: str, **facts: int) -> None:
        self._emit(Answered(request, refuse(code, detail, **facts)))
