"""Updates that keep being refused for what is in them: when a person is told, and in which words. Pure.

The one rule: the first of a row is told at once, and a run in which all are refused does not fill the log.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from leeway.protocol.codes import Code
from leeway.protocol.pushes import Disposition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.reasons import Reason
    from leeway.worker.session.states import Outcome

# The 1st, 10th, 100th, ... in a row are told.
TELLING_FACTOR = 10


REFUSED: Final[Mapping[Reason | Code, str]] = MappingProxyType(
    {
        Code.NON_FINITE: "there is a NaN or an infinity in them",
        Code.UPDATE_TOO_LARGE: "they are larger than the server takes",
    }
)
"""Why, by the reason of their ends: each became a skip."""


class RefusedInARow:
    """`count`: refused ones since the last update that went into the model."""

    __slots__ = ("_next", "count")

    def __init__(self) -> None:
        self.count = 0
        self._next = 1

    def ended(self, outcome: Outcome) -> bool:
        """Count the end of an update. Returns whether to tell that updates are being refused."""
        if outcome.reason in REFUSED:
            self.count += 1
        elif outcome.disposition not in (None, Disposition.SKIPPED, Disposition.LATE):
            self.count, self._next = 0, 1
        telling = self.count >= self._next
        if telling:
            self._next = self.count * TELLING_FACTOR
        return telling
