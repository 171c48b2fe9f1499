"""The rounds of a gathering policy: who is in, who has contributed, when a round may close.

A round is numbered by the clock that its members push. It goes

    WAITING --open(members)--> OPEN --close()--> APPLYING --published--> WAITING (next number)
                                       \\--(no updates, or too few)---------^

Invariants: members are fixed when the round opens; one that leaves without having contributed is taken out, an
accepted contribution stays. A joiner never enters the open round. When a round may close is the policy's to say.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from leeway.protocol.ranks import natural
from leeway.ps.core.effects import Contribution

if TYPE_CHECKING:
    from collections.abc import Iterable, KeysView

    from leeway.protocol.pushes import UpdateKind


# How many gaps between one contribution of a round and the next are remembered, over all rounds.
REMEMBERED_GAPS = 64


class RoundState(StrEnum):
    WAITING = "waiting"
    OPEN = "open"
    APPLYING = "applying"


@dataclass(frozen=True, slots=True)
class Held:
    """An accepted contribution: its kind, weight and bodies. A skip has weight 0 and no body."""

    kind: UpdateKind
    samples: int
    bodies: tuple[int, ...]


class Rounds:
    """`number`: of the open or applying round, or of the next one to open.

    `arrivals`: when each contribution of the open round came, in order; `gaps`: the seconds between two of them.
    """

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.state = RoundState.WAITING
        self._missing: dict[str, None] = {}
        self.held: dict[str, Held] = {}
        self.arrivals: list[float] = []
        self.gaps: deque[float] = deque(maxlen=REMEMBERED_GAPS)

    @property
    def next_number(self) -> int:
        """The round that a joiner enters."""
        return self.number if self.state is RoundState.WAITING else self.number + 1

    @property
    def missing(self) -> KeysView[str]:
        """The members that have not contributed, in natural order: kept so, because all that wait are told of them."""
        return self._missing.keys()

    @property
    def members(self) -> list[str]:
        """Of the open round, in natural order: those who have contributed and those who are missing."""
        return sorted(self.missing | self.held.keys(), key=natural)

    @property
    def complete(self) -> bool:
        return self.state is RoundState.OPEN and not self.missing

    @property
    def kind(self) -> UpdateKind | None:
        """What this round gathers: set by its first update."""
        return next((held.kind for held in self.held.values() if held.samples), None)

    def open(self, members: Iterable[str]) -> None:
        assert self.state is RoundState.WAITING
        self.state = RoundState.OPEN
        self._missing = dict.fromkeys(sorted(members, key=natural))
        assert self.missing, "a round without members would never close"

    def reopen(self, missing: Iterable[str], held: dict[str, Held], now: float) -> None:
        """Go on with an open round that was saved; its contributions count as having come now."""
        self.state = RoundState.OPEN
        self._missing, self.held = dict.fromkeys(sorted(missing, key=natural)), held
        self.arrivals = [now] * len(held)

    def contribute(self, rank: str, held: Held, now: float) -> None:
        assert self.state is RoundState.OPEN
        del self._missing[rank]
        self.held[rank] = held
        if self.arrivals:
            self.gaps.append(now - self.arrivals[-1])
        self.arrivals.append(now)

    def paused(self, seconds: float, now: float) -> None:
        """The last `seconds` are part of nobody's delay."""
        self.arrivals = [min(arrival + seconds, now) for arrival in self.arrivals]

    def remove(self, rank: str) -> None:
        """The member is no longer live."""
        self._missing.pop(rank, None)

    def close(self, least: int = 1) -> tuple[Contribution, ...]:
        """The updates of the round in natural rank order, without the skips. APPLYING if there are `least` or more."""
        assert self.state is RoundState.OPEN
        updates = tuple(
            Contribution(rank, self.held[rank].samples, self.held[rank].bodies)
            for rank in sorted(self.held, key=natural)
            if self.held[rank].samples
        )
        self._missing.clear()
        self.held.clear()
        self.arrivals.clear()
        self.state = RoundState.APPLYING
        if len(updates) < least:
            self.finish()
        return updates

    def finish(self) -> None:
        """The step of the round, if any, is published."""
        assert self.state is RoundState.APPLYING
        self.state = RoundState.WAITING
        self.number += 1
