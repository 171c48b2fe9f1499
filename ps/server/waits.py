"""Who waits, for whom, and for how long: seconds per worker, added up from what the machine decides.

The one rule: exact, at O(1) a push on average. Between two events nothing changes, so a time is the difference of two
events' times; the set of those who are waited for is taken from the machine (`Group.why`) when something that it
depends on has changed while somebody waits, and a worker that has pushed is taken out by itself.

A worker waits from the moment its pull is parked (of a push-pull: the pull behind the push) until that is answered, its
asker is gone, or its life ends; time in which the server did not run is no part of it. It is waited for while a pull of
another live worker waits for a push of it; of several each one counts that time. Pulls of readers and arrivals at named
barriers are no waits here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.requests import Push
from leeway.ps.core.effects import Answered, Apply, Began, Ended, Parked
from leeway.ps.core.events import Asked, Failed, Gone, Paused, Published
from leeway.ps.core.policies.eager import Eager
from leeway.ps.core.rounds import RoundState

if TYPE_CHECKING:
    from collections.abc import Collection, KeysView, Sequence

    from leeway.ps.core.effects import Effect
    from leeway.ps.core.events import Event
    from leeway.ps.core.groups import Group
    from leeway.ps.core.machine import Machine


class Waits:
    """Tell it of each step of the machine with `see`; all times are in seconds of the machine's clock.

    A rank's times begin at 0 with each of its lives, and are 0 for one that is not live.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._groups = {name: _GroupWaits(group) for name, group in machine.groups.items()}
        self._parked: dict[int, tuple[str, str]] = {}
        # Updates that take effect on arrival: whose clock advances when this version of the group is published.
        self._making: dict[tuple[str, int], str] = {}

    def waiting_seconds(self, group: str, rank: str, now: float) -> float:
        """How long this worker's pulls have waited, the present wait included."""
        return self._groups[group].waiting.read(rank, now)

    def held_seconds(self, group: str, rank: str, now: float) -> float:
        """How long others have waited for this worker, the present wait included."""
        return self._groups[group].held.read(rank, now)

    def see(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        """The machine has taken this event and decided these effects; before its next step."""
        match event:
            case Paused(seconds):
                for group in self._groups.values():
                    group.waiting.paused(seconds, now)
                    group.held.paused(seconds, now)
            case Gone(request):
                self._end_wait(request, now)
            case Asked(_, Push(group=name, life=life)) if name in self._groups:
                self._groups[name].may_have_moved(life.rank, now)
            case Published(name, number) | Failed(name, number):
                if rank := self._making.pop((name, number), None):
                    self._groups[name].may_have_moved(rank, now)
        for effect in effects:
            match effect:
                case Parked(request, who):
                    self._begin_wait(request, who, now)
                case Answered(request):
                    self._end_wait(request, now)
                case Apply(group=name, number=number, contributions=(update,), aggregated=False):
                    self._making[name, number] = update.rank
                    self._groups[name].has_pushed(update.rank)
                case Ended(rank):
                    for group in self._groups.values():
                        group.forget(rank)
                case Began():
                    for group in self._groups.values():
                        group.stale = True
        for group in self._groups.values():
            group.settle(now)

    def _begin_wait(self, request: int, who: str, now: float) -> None:
        member = self._machine.membership.of_rank(who.rpartition("#")[0])
        for name in member.groups if member else ():
            waiting = self._machine.groups[name].waiting.of(member) if member else None
            # Otherwise it is an arrival at a barrier, or has been answered in the same step.
            if member and waiting and waiting.request == request:
                self._parked[request] = name, member.rank
                self._groups[name].begin_wait(member.rank, now)

    def _end_wait(self, request: int, now: float) -> None:
        if parked := self._parked.pop(request, None):
            name, rank = parked
            self._groups[name].end_wait(rank, now)


class _GroupWaits:
    """Invariant: after `settle`, `held` runs for exactly those that a waiting worker waits for."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.waiting = _Stopwatches()
        self.held = _Stopwatches()
        self.stale = True
        # The clocks at which the ranks in `held` stood: who goes on from there is no longer waited for.
        self._held_at: dict[str, int] = {}
        self._newcomers: list[str] = []
        self._seen: object = None

    def begin_wait(self, rank: str, now: float) -> None:
        self.waiting.start(rank, now)
        self._newcomers.append(rank)

    def end_wait(self, rank: str, now: float) -> None:
        self.waiting.stop(rank, now)
        # It may have been the only one that waited for others; the rest may wait for the arithmetic.
        self.stale = True

    def has_pushed(self, rank: str) -> None:
        """From an older grant of its iteration it may push while it waits; then it waits for that push."""
        self.stale = self.stale or rank in self.waiting.running

    def may_have_moved(self, rank: str, now: float) -> None:
        """A push of this worker has come or has taken effect."""
        if rank not in self.held.running or self._group.clock_of(rank) == self._held_at[rank]:
            return
        if self._group.switching_at is None:
            self.held.stop(rank, now)
        else:
            self.stale = True  # on the way to `sync` it may have several iterations to go

    def forget(self, rank: str) -> None:
        self.waiting.forget(rank)
        self.held.forget(rank)
        self.stale = True

    def settle(self, now: float) -> None:
        """Who is waited for now?"""
        group = self._group
        newcomers, self._newcomers = self._newcomers, []
        if not self.waiting.running:
            self._hold((), now)
            self.stale = True
            return
        seen = (
            group.min_clock,
            group.policy,
            group.switching_at,
            group.rounds.number,
            group.rounds.state,
            # Who waits for a version waits for nobody, until that is out and it has to wait for others all the same.
            None if self.held.running else group.published,
        )
        if self.stale or seen != self._seen:
            self._hold(self._waited_for(self.waiting.running), now)
        elif not self.held.running:
            self._hold(self._waited_for(newcomers), now)
        self._seen = (*seen[:-1], None if self.held.running else group.published)
        self.stale = False

    def _waited_for(self, ranks: Collection[str]) -> Collection[str]:
        """Under every policy all that wait for others wait for the same ones: the first of them tells."""
        if not isinstance(self._group.policy, Eager) and self._group.rounds.state is not RoundState.OPEN:
            return ()  # for workers to come, or for the arithmetic: asking each of a thousand would find nobody
        for rank in ranks:
            member = self._group.roster.of_rank(rank)
            waiting = self._group.waiting.of(member) if member else None
            if waiting and (waited_for := self._group.why(waiting).waiting_for):
                return waited_for
        return ()

    def _hold(self, ranks: Collection[str], now: float) -> None:
        ranks = frozenset(ranks)
        for rank in self.held.running - ranks:
            self.held.stop(rank, now)
        for rank in ranks:
            self.held.start(rank, now)
        self._held_at = {rank: self._group.clock_of(rank) for rank in ranks}


class _Stopwatches:
    """Seconds per rank. Those that run are counted until the moment of reading."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._totals: dict[str, float] = {}

    @property
    def running(self) -> KeysView[str]:
        return self._since.keys()

    def start(self, rank: str, now: float) -> None:
        self._since.setdefault(rank, now)

    def stop(self, rank: str, now: float) -> None:
        since = self._since.pop(rank, None)
        if since is not None:
            self._totals[rank] = self._totals.get(rank, 0.0) + now - since

    def paused(self, seconds: float, now: float) -> None:
        self._since = {rank: min(since + seconds, now) for rank, since in self._since.items()}

    def forget(self, rank: str) -> None:
        self._since.pop(rank, None)
        self._totals.pop(rank, None)

    def read(self, rank: str, now: float) -> float:
        return self._totals.get(rank, 0.0) + now - self._since.get(rank, now)
