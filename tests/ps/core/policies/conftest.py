from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from leeway.ps.core.rounds import Rounds


@dataclass
class Group:
    """What a policy sees of a group, made up."""

    clocks: dict[str, int]
    rounds: Rounds = field(default_factory=lambda: Rounds(3))
    workers: int = 2
    workers_to_start: int = 2
    arrived: frozenset[str] = frozenset({"w0"})
    assembled: bool = True
    furthest_granted: int = 0
    stepping: bool = False

    @property
    def min_clock(self) -> int:
        return min(self.clocks.values())

    @property
    def max_clock(self) -> int:
        return max(self.clocks.values())

    @property
    def live_workers(self) -> int:
        return len(self.clocks)

    def clock_of(self, rank: str) -> int:
        return self.clocks[rank]

    def ranks(self) -> list[str]:
        return list(self.clocks)

    def behind(self, clock: int) -> list[str]:
        return [rank for rank, mine in self.clocks.items() if mine < clock]

    def slowest(self) -> tuple[str, ...]:
        return tuple(rank for rank, clock in self.clocks.items() if clock == self.min_clock)


@pytest.fixture
def group_of():
    return lambda **clocks: Group(clocks)
