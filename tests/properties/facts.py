"""What happened in a run, as the oracle remembers it: plain records that are only ever added to.

The one rule: nothing here is a running total. Clocks, minima, members and versions are counted from these anew,
every time somebody asks.
"""

from dataclasses import dataclass, field
from typing import Any

from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.reasons import Reason


@dataclass(eq=False)
class Life:
    rank: str
    number: int
    session: str
    start: int
    heard: float
    ended: Reason | None = None


@dataclass(eq=False)
class Round:
    """`members` as it opened; `dead` are those who ended without having contributed."""

    number: int
    members: tuple[Life, ...]
    closed: bool = False
    too_few: bool = False


@dataclass(eq=False)
class Grant:
    life: Life
    clock: int
    version: int
    round: int | None
    at: float


@dataclass(eq=False)
class Moved:
    """A pull took the worker on from a round that had closed without it; `last` is what it had pushed until then."""

    life: Life
    clock: int
    to: int
    last: "Update | None"


@dataclass(eq=False)
class Update:
    """An accepted push. `round` None: on arrival, late, or a skip outside a round. `number`: the version that it makes
    alone.

    `late_to`: it was late, and its worker was told to go on from there. `gap`: the seconds since the contribution
    before it to its round, as they were counted then. `norm`: None where none was measured.
    """

    life: Life
    clock: int
    parts: int
    kind: UpdateKind
    samples: int
    bodies: tuple[int, ...]
    round: Round | None
    number: int | None
    staleness: int | None
    at: float
    late_to: int | None = None
    gap: float | None = None
    norm: float | None = None
    askers: list[tuple[int, Push]] = field(default_factory=list)

    @property
    def skip(self) -> bool:
        return self.kind is UpdateKind.SKIP

    @property
    def next_clock(self) -> int:
        return self.clock + 1 if self.late_to is None else self.late_to


@dataclass(eq=False)
class Part:
    life: Life
    clock: int
    request: int
    push: Push
    norm: float | None = None


@dataclass(eq=False)
class Decision:
    """Version `number` is decided: an offer's request, or the updates in it (one on arrival, or a round's)."""

    number: int
    offer: int | None = None
    stored: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    updates: tuple[Update, ...] = ()
    round: Round | None = None
    asked: bool = True
    failed: bool = False


@dataclass(eq=False)
class Waiter:
    """A parked pull; `pushed` is the result it has to bring along."""

    request: int
    life: Life | None
    pull: Pull
    since: float
    pushed: tuple[Any, ...] | None


@dataclass(eq=False)
class Attempt:
    """One generation of a barrier, from its first arrival on. `present`: who was live then."""

    present: tuple[Life, ...]
    parties: int = 1
    arrived: list[Life] = field(default_factory=list)
    waiting: list[tuple[int, Life, float, float]] = field(default_factory=list)
