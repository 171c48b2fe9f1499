"""Who is slow, when and how: the five kinds that a scenario may name.

The one rule: a straggler sleeps or is stopped, it never takes cores from the others; and it does so in the same
iterations, or at the same moments, in each system.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias


class Slowness(Protocol):
    """What all kinds have in common."""

    kind: ClassVar[str]

    @property
    def title(self) -> str:
        """A few words for headings, the same for every set of numbers."""
        ...

    @property
    def words(self) -> str:
        """A sentence with the numbers."""
        ...

    def flags(self, rank: int, world: int) -> list[str]:
        """Of `ps-worker` (and of `tests.bench.ddp`)."""
        ...


@dataclass(frozen=True, slots=True)
class Nobody:
    kind: ClassVar[str] = "none"
    title: ClassVar[str] = "equal machines"
    words: ClassVar[str] = "Nobody is slow."

    def flags(self, rank: int, world: int) -> list[str]:
        return []


@dataclass(frozen=True, slots=True)
class Constant:
    """The last rank is slower by so much in every iteration."""

    seconds: float
    kind: ClassVar[str] = "constant"
    title: ClassVar[str] = "one rank always slower"

    @property
    def words(self) -> str:
        return f"The last rank sleeps {1e3 * self.seconds:g} ms more in each of its iterations."

    def flags(self, rank: int, world: int) -> list[str]:
        return ["--slow", str(self.seconds)] if rank == world - 1 else []


@dataclass(frozen=True, slots=True)
class Moving:
    """Each rank in turn, for so many of its iterations."""

    seconds: float
    iterations: int
    kind: ClassVar[str] = "moving"
    title: ClassVar[str] = "a slowness that moves on"

    @property
    def words(self) -> str:
        return f"The ranks take turns: {self.iterations} iterations each with {1e3 * self.seconds:g} ms more sleep."

    def flags(self, rank: int, world: int) -> list[str]:
        return ["--slow", str(self.seconds), "--slow-turns", str(self.iterations)]


@dataclass(frozen=True, slots=True)
class Tail:
    """All ranks pause in every iteration, mostly for `seconds`, now and then for long: Pareto's distribution."""

    seconds: float
    alpha: float
    kind: ClassVar[str] = "tail"
    title: ClassVar[str] = "random pauses with a heavy tail"

    @property
    def words(self) -> str:
        return (
            f"Every rank pauses in each iteration, for {1e3 * self.seconds:g} ms or longer: longer than x with the"
            f" probability ({1e3 * self.seconds:g} ms / x) ^ {self.alpha:g}, decided by seed, rank and iteration."
        )

    def flags(self, rank: int, world: int) -> list[str]:
        return ["--slow", str(self.seconds), "--slow-tail", str(self.alpha)]


@dataclass(frozen=True, slots=True)
class Stopping:
    """The last rank's process is stopped (SIGSTOP) at a moment of the run, and goes on after a while (SIGCONT)."""

    at_seconds: float
    for_seconds: float
    lease_seconds: float
    kind: ClassVar[str] = "stop"
    title: ClassVar[str] = "one rank stops and returns"

    @property
    def words(self) -> str:
        return (
            f"The last rank's process is stopped for {self.for_seconds:g} s, {self.at_seconds:g} s after the start. The"
            f" server's lease is {self.lease_seconds:g} s, so it goes on without that rank until it is back."
        )

    def flags(self, rank: int, world: int) -> list[str]:
        return []


Straggler: TypeAlias = Nobody | Constant | Moving | Tail | Stopping

KINDS: dict[str, type[Straggler]] = {kind.kind: kind for kind in (Nobody, Constant, Moving, Tail, Stopping)}
