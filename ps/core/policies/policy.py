"""What a policy is: it decides on a pull from what it may see of its group, and whether pushes are gathered.

The one rule: a policy holds no state of the run, only its own settings. What changes lives in the group, so a
policy can be exchanged on a live run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from leeway.ps.core.decisions import Decision
    from leeway.ps.core.rounds import Rounds


class View(Protocol):
    """What a policy may see of its group."""

    @property
    def rounds(self) -> Rounds: ...

    @property
    def min_clock(self) -> int: ...

    @property
    def live_workers(self) -> int: ...

    @property
    def workers_to_start(self) -> int:
        """How many must be live before the next round may open."""

    def clock_of(self, rank: str) -> int: ...

    def slowest(self) -> tuple[str, ...]:
        """The live ranks at the min clock, in natural order."""


class Policy(Protocol):
    @property
    def mode(self) -> str: ...

    @property
    def staleness(self) -> int | None: ...

    @property
    def gathers(self) -> bool:
        """Whether pushes are held until the round closes; else they are effective on arrival."""

    def pull(self, view: View, rank: str) -> Decision:
        """May the pull of this worker's next iteration be answered now?"""
