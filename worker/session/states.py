"""Where a conversation stands, why it ended, and what became of an update. Names and numbers only.

    JOINING -> OFFERING -> PULLING -> COMPUTING -> PUSHING -> PULLING -> ... -> LEAVING -> ENDED

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
    """What a conversation does next."""

    # A life is asked for; or asked back, after a refusal that says it is gone or out of step.
    JOINING = "joining"
    # The tensors that are trained here: are they the server's; initial values that it lacks. Left out when it is known
    # to have the same.
    OFFERING = "offering"
    # The parameters of this iteration are asked for.
    PULLING = "pulling"
    # They are granted: nothing is sent until `computed`, `skip` or `leave`.
    COMPUTING = "computing"
    # The update in hand, under one name, until its end is known.
    PUSHING = "pushing"
    # A goodbye, a few times at most: the lease does the rest.
    LEAVING = "leaving"
    # For good; `ending` says why.
    ENDED = "ended"


class Ending(StrEnum):
    """Why there is nothing more to do."""

    FINISHED = "finished"  # the run is complete: the clock `--until` is reached, or another end of it
    LEFT = "left"  # by our own wish, or somebody else ended this life in good order
    FENCED = "fenced"  # another process has taken the rank: this one must stop
    QUARANTINED = "quarantined"  # the server keeps this rank out
    DEADLOCK = "deadlock"  # this worker and others waited for each other in a circle over groups: it has given way

    @property
    def against_our_wish(self) -> bool:
        return self in (Ending.FENCED, Ending.QUARANTINED, Ending.DEADLOCK)


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
