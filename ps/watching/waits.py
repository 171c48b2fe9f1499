"""Who waits, for whom, and for how long: seconds per worker, added up from what the machine decides.

The one rule: exact, at O(1) a push on average. Between two events nothing changes, so a time is the difference of two
events' times; the machine says who is waited for when that changes, and until which clock.

A worker waits from the moment its pull is parked (of a push-pull: the pull behind the push) until that is answered, its
asker is gone, or its life ends; time in which the server did not run is no part of it. It is waited for while a pull of
another live worker waits for a push of it; of several each one counts that time. Pulls of readers and arrivals at named
barriers are no waits here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.ps.core.effects import Advanced, Answered, Create, Ended, Parked, WaitingFor
from leeway.ps.core.events import Gone, Paused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leeway.ps.core.effects import Effect
    from leeway.ps.core.events import Event


class Waits:
    """Tell it of each step of the machine with `see`; all times are in seconds of the machine's clock.

    A rank's times begin at 0 with each of its lives, and are 0 for one that is not live.
    """

    def __init__(self, groups: Iterable[str]) -> None:
        self._waiting: dict[str, _Stopwatches] = {}
        self._held: dict[str, _Stopwatches] = {}
        # The clock to which those who are waited for have to come.
        self._until: dict[str, int] = {}
        self._parked: dict[int, tuple[str, str]] = {}
        for name in groups:
            self._begin(name)

    def _begin(self, group: str) -> None:
        self._waiting[group], self._held[group], self._until[group] = _Stopwatches(), _Stopwatches(), 0

    def waiting_seconds(self, group: str, rank: str, now: float) -> float:
        """How long this worker's pulls have waited, the present wait included."""
        return self._waiting[group].read(rank, now)

    def held_seconds(self, group: str, rank: str, now: float) -> float:
        """How long others have waited for this worker, the present wait included."""
        return self._held[group].read(rank, now)

    def see(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        """The machine has taken this event and decided these effects."""
        match event:
            case Paused(seconds):
                for watches in (*self._waiting.values(), *self._held.values()):
                    watches.paused(seconds, now)
            case Gone(request):
                self._end_wait(request, now)
        for effect in effects:
            match effect:
                case Create(group):
                    self._begin(group)
                case Parked(request, str(group), str(rank)):
                    self._parked[request] = group, rank
                    self._waiting[group].start(rank, now)
                case Answered(request):
                    self._end_wait(request, now)
                case WaitingFor(group, ranks, clock):
                    self._until[group] = clock
                    self._held[group].only(ranks, now)
                case Advanced(group, rank, clock) if clock >= self._until[group]:
                    self._held[group].stop(rank, now)
                case Ended(rank):
                    for watches in (*self._waiting.values(), *self._held.values()):
                        watches.forget(rank)

    def _end_wait(self, request: int, now: float) -> None:
        if parked := self._parked.pop(request, None):
            group, rank = parked
            self._waiting[group].stop(rank, now)


class _Stopwatches:
    """Seconds per rank. Those that run are counted until the moment of reading."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._totals: dict[str, float] = {}

    def start(self, rank: str, now: float) -> None:
        self._since.setdefault(rank, now)

    def stop(self, rank: str, now: float) -> None:
        since = self._since.pop(rank, None)
        if since is not None:
            self._totals[rank] = self._totals.get(rank, 0.0) + now - since

    def only(self, ranks: Iterable[str], now: float) -> None:
        """From now on those of these ranks run, and no others."""
        wanted = frozenset(ranks)
        for rank in self._since.keys() - wanted:
            self.stop(rank, now)
        for rank in wanted:
            self.start(rank, now)

    def paused(self, seconds: float, now: float) -> None:
        self._since = {rank: min(since + seconds, now) for rank, since in self._since.items()}

    def forget(self, rank: str) -> None:
        self._since.pop(rank, None)
        self._totals.pop(rank, None)

    def read(self, rank: str, now: float) -> float:
        return self._totals.get(rank, 0.0) + now - self._since.get(rank, now)
