"""What a policy is: when a pull is answered, when a push takes effect, and who meets in a round.

The one rule: a policy holds no state of the run, only its own settings. What changes lives in the group, so a
policy can be exchanged on a live run.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from leeway.protocol.policy_terms import PolicyTerms
    from leeway.ps.core.decisions import Decision
    from leeway.ps.core.rounds import Rounds


class Reception(StrEnum):
    """What becomes of a push that is in order."""

    ON_ARRIVAL = "on-arrival"  # it makes a version of its own
    IN_ROUND = "in-round"  # it is held until the open round closes
    LATE = "late"  # its round has closed without it: it is dropped


class View(Protocol):
    """What a policy may see of its group."""

    @property
    def rounds(self) -> Rounds: ...

    @property
    def min_clock(self) -> int: ...

    @property
    def max_clock(self) -> int: ...

    @property
    def live_workers(self) -> int: ...

    @property
    def workers(self) -> int:
        """How many ranks must have joined before anybody computes."""

    @property
    def workers_to_start(self) -> int:
        """How many must be live before the next round may open."""

    @property
    def arrived(self) -> Collection[str]:
        """The ranks that have ever joined, as long as they are fewer than `workers`."""

    @property
    def assembled(self) -> bool:
        """Whether `workers` ranks have ever joined."""

    @property
    def stepping(self) -> bool:
        """Whether a version is being made; until it is published no round opens."""

    @property
    def furthest_granted(self) -> int:
        """The largest clock that a live worker has, or will have when it pushes what it computes."""

    def clock_of(self, rank: str) -> int: ...

    def ranks(self) -> Sequence[str]:
        """The live ranks, in natural order."""

    def slowest(self) -> tuple[str, ...]:
        """Those of them at the min clock."""

    def behind(self, clock: int) -> Sequence[str]:
        """Those of them below this clock."""


class Policy(Protocol):
    @property
    def terms(self) -> PolicyTerms:
        """What it was made of."""

    @property
    def has_rounds(self) -> bool:
        """Whether updates meet in rounds and are aggregated; else each is a step of its own."""

    def enter_clock(self, view: View) -> int:
        """The clock of a worker that joins."""

    def caught_up(self, view: View, rank: str) -> int:
        """The clock at which a worker that pulls goes on: its own, or a later one when that round has closed."""

    def pull(self, view: View, rank: str) -> Decision:
        """May the pull of this worker's next iteration be answered now?"""

    def push(self, view: View, rank: str) -> Reception:
        """What becomes of this worker's push of the iteration that it was granted?"""

    def members(self, view: View) -> Sequence[str]:
        """Who is in the round that opens now, nothing being applied; nobody: none opens."""

    def awaited(self, view: View) -> Sequence[str]:
        """Who still has to come to the number of the next round before it opens."""

    def needed(self, view: View, awaited: int) -> int:
        """How many of those that are waited for must come before who waits goes on; 0: time alone will do."""

    def may_close(self, view: View, now: float) -> bool:
        """May the open round close?"""

    def deadline(self, view: View) -> float | None:
        """When the open round may close though nothing happens any more; None: never."""

    def adopted(self, view: View) -> Policy:
        """What is in force first when a live run is switched to this: itself, or the way there."""

    def opened(self) -> Policy:
        """What is in force from a round on that has opened under this: itself, or where the way has led."""
