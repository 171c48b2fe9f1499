"""Which workers are late: how many of a worker's updates came after their round had closed, and whether its newest did.

The one rule: it is of a life. It begins at 0 with each, and is 0 for a rank that is not live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leeway.protocol.pushes import Disposition
from leeway.ps.core.effects import Accepted, Ended

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.ps.core.effects import Effect


class Late(NamedTuple):
    updates: int
    newest: bool


_NEVER = Late(0, newest=False)


class Lateness:
    """Tell it of each step of the machine with `see`."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[str, Late]] = {}

    def of(self, group: str, rank: str) -> Late:
        return self._groups.get(group, {}).get(rank, _NEVER)

    def see(self, effects: Sequence[Effect]) -> None:
        """The machine has decided these effects."""
        for effect in effects:
            match effect:
                case Accepted(group=group, rank=rank, disposition=disposition):
                    self._accepted(group, rank, late=disposition is Disposition.LATE)
                case Ended(rank):
                    for ranks in self._groups.values():
                        ranks.pop(rank, None)

    def _accepted(self, group: str, rank: str, *, late: bool) -> None:
        updates = self.of(group, rank).updates
        # Most workers never are, and have no entry.
        if late or updates:
            self._groups.setdefault(group, {})[rank] = Late(updates + late, late)
