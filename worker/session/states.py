"""Where a worker's session stands, why it ended, and what became of an update. Names and numbers only.

The one rule: an update ends in exactly one `Outcome`, so that counting outcomes counts updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leeway.protocol.codes import Code
    from leeway.protocol.pushes import Disposition
    from leeway.protocol.reasons import Reason


class State(StrEnum):
    """What a session does next."""

    JOINING = "joining"
    OFFERING = "offering"
    PULLING = "pulling"
    COMPUTING = "computing"
    PUSHING = "pushing"
    LEAVING = "leaving"
    ENDED = "ended"


class Ending(StrEnum):
    """Why there is nothing more to do."""

    FINISHED = "finished"  # the clock `--until` is reached
    LEFT = "left"  # by our own wish, or somebody else ended this life in good order
    FENCED = "fenced"  # another process has taken the rank: this one must stop


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of the update of iteration `clock`. `disposition` None: dropped, and `reason` says why.

    `version` and `staleness` are told of an update that was applied on arrival, if its reply came through.
    `tensor`: the name of the one for which it was refused and became a skip.
    """

    clock: int
    disposition: Disposition | None
    reason: Reason | Code
    version: int | None = None
    staleness: int | None = None
    tensor: str | None = None

    @property
    def dropped(self) -> bool:
        return self.disposition is None

    def __str__(self) -> str:
        reason = f"{self.reason}: {self.tensor}" if self.tensor else str(self.reason)
        return f"{self.disposition or 'dropped'} @{self.clock} ({reason})"
