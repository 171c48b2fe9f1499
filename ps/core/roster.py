"""The live workers of one group, in natural rank order, with their clocks.

Invariant: `clocks` counts exactly the clocks of the workers listed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.ranks import natural
from leeway.ps.core.clocks import Clocks
from leeway.ps.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from leeway.ps.core.lives import Incarnation


class Roster:
    def __init__(self, group: str, min_clock: int = 0) -> None:
        self._group = group
        self._members: dict[str, Incarnation] = {}
        self._indices: dict[str, int] = {}
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
        return iter(self._members.values())

    def __contains__(self, member: Incarnation) -> bool:
        return self._members.get(member.rank) is member

    def ranks(self) -> list[str]:
        return list(self._members)

    def of_rank(self, rank: str) -> Incarnation | None:
        return self._members.get(rank)

    def progress(self, rank: str) -> Progress:
        return self._members[rank].groups[self._group]

    def index_of(self, rank: str) -> int:
        """The place of this rank among the live ones: which share of the data is its own."""
        return self._indices[rank]

    def slowest(self) -> tuple[str, ...]:
        """The ranks at the smallest clock."""
        if self._slowest is None:
            self._slowest = tuple(self.behind(self.clocks.minimum + 1))
        return self._slowest

    def behind(self, clock: int) -> list[str]:
        """The ranks below this clock."""
        return [rank for rank in self._members if self.progress(rank).clock < clock]

    def enter(self, member: Incarnation, clock: int) -> None:
        self.put(member, Progress(clock))

    def put(self, member: Incarnation, progress: Progress) -> None:
        """Enter with a progress that was saved."""
        member.groups[self._group] = progress
        self._arrange({**self._members, member.rank: member})
        self.clocks.add(progress.clock)

    def exit(self, member: Incarnation) -> None:
        """The life has ended; its progress stays with it, for late repeats."""
        self._arrange({rank: other for rank, other in self._members.items() if other is not member})
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

    def _arrange(self, members: dict[str, Incarnation]) -> None:
        self._members = {rank: members[rank] for rank in sorted(members, key=natural)}
        self._indices = {rank: index for index, rank in enumerate(self._members)}
        self._slowest = None
        self.replicas = tuple(member for member in self._members.values() if member.is_replica)
