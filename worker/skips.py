"""Updates that keep being refused because they are not finite: when a person is told. Pure.

The one rule: the first of a row is told at once, and a run in which all are refused does not fill the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.codes import Code
from leeway.protocol.pushes import Disposition

if TYPE_CHECKING:
    from leeway.worker.session.states import Outcome

# The 1st, 10th, 100th, ... in a row are told.
TELLING_FACTOR = 10


class RefusedInARow:
    """`count`: refused ones since the last update that went into the model."""

    __slots__ = ("_next", "count")

    def __init__(self) -> None:
        self.count = 0
        self._next = 1

    def ended(self, outcome: Outcome) -> bool:
        """Count the end of an update. Returns whether to tell that updates are being refused."""
        if outcome.reason is Code.NON_FINITE:
            self.count += 1
        elif outcome.disposition not in (None, Disposition.SKIPPED, Disposition.LATE):
            self.count, self._next = 0, 1
        telling = self.count >= self._next
        if telling:
            self._next = self.count * TELLING_FACTOR
        return telling
