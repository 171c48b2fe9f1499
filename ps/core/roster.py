"""The live workers of one group, in natural rank order, with their clocks.

Invariant: `clocks` counts exactly the clocks of the workers listed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.ps.core.clocks import Clocks
from leeway.ps.core.in_order import InOrder
from leeway.ps.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leeway.ps.core.lives import Incarnation


class Roster:
    def __init__(self, group: str, min_clock: int = 0) -> None:
        self._group = group
        self._members: dict[str, Incarnation] = {}
        self._in_order = InOrder()
        # Found when asked for, and good until a worker comes, goes, or leaves the minimum: a thousand who wait for the
        # same few are then told so at the cost of one.
        self._slowest: tuple[str, ...] | None = None
        # Those of them that are replicas: few, and looked at after every event.
        self.replicas: tuple[Incarnation, ...] = ()
        self.clocks = Clocks(min_clock)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Incarnation]:
        """In natural rank order."""
        return iter(self._in_order.lives)

    def __contains__(self, member: Incarnation) -> bool:
        return self._members.get(member.rank) is member

    def ranks(self) -> list[str]:
        return [member.rank for member in self]

    def of_rank(self, rank: str) -> Incarnation | None:
        return self._members.get(rank)

    def progress(self, rank: str) -> Progress:
        return self._members[rank].groups[self._group]

    def index_of(self, rank: str) -> int:
        """The place of this rank among the live ones: which share of the data is its own."""
        return self._in_order.place(self._members[rank].rank)

    def slowest(self) -> tuple[str, ...]:
        """The ranks at the smallest clock."""
        if self._slowest is None:
            self._slowest = tuple(self.behind(self.clocks.minimum + 1))
        return self._slowest

    def behind(self, clock: int) -> list[str]:
        """The ranks below this clock."""
        return [member.rank for member in self if member.groups[self._group].clock < clock]

    def enter(self, member: Incarnation, clock: int) -> None:
        self.put(member, Progress(clock))

    def put(self, member: Incarnation, progress: Progress) -> None:
        """Enter with a progress that was saved."""
        member.groups[self._group] = progress
        before = self._members.get(member.rank)
        self._members[member.rank] = member
        self._in_order.put(member)
        self._rearranged(before, member)
        self.clocks.add(progress.clock)

    def exit(self, member: Incarnation) -> None:
        """The life has ended; its progress stays with it, for late repeats."""
        del self._members[member.rank]
        self._in_order.remove(member)
        self._rearranged(member)
        self.clocks.remove(member.groups[self._group].clock)

    def go_on(self, member: Incarnation, clock: int) -> None:
        """Its iteration has had its end."""
        progress = member.groups[self._group]
        self._leave(progress.clock, clock)
        progress.go_on(clock)

    def move(self, member: Incarnation, clock: int) -> None:
        """Its iterations up to this one have gone by without it."""
        progress = member.groups[self._group]
        self._leave(progress.clock, clock)
        progress.move(clock)

    def _leave(self, clock: int, to: int) -> None:
        if clock == self.clocks.minimum:
            self._slowest = None
        self.clocks.advance(clock, to)

    def _rearranged(self, *changed: Incarnation | None) -> None:
        self._slowest = None
        if any(member is not None and member.is_replica for member in changed):
            self.replicas = tuple(member for member in self if member.is_replica)
