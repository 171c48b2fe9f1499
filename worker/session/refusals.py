"""What a worker does about each refusal: a table, complete over `Code`.

The one rule: a refusal is answered by code, never by its words; what is not the client's to mend is the user's
to see.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType

from leeway.protocol.codes import Code


class Reaction(StrEnum):
    AGAIN = "the same request again, later"
    WAIT = "the same request again, when the server wants it: it is there, and this one asks for too much"
    REJOIN = "join again with the same session; the update in hand is told its end there"
    DROP = "join again for the server's clock; under that name the update in hand was not accepted"
    NEW_LIFE = "draw a new session and join again; the refusal tells the end of the update in hand"
    NEXT_LIFE = "join again with the same session, for the next life of the replica; likewise"
    STOP = "end: another process has the rank, or somebody has ended this life, or keeps the rank out"
    FINISH = "end: the run is complete"
    SKIP = "push a skip in place of the update"
    LEAVE = "end this life, so that the others go on, and raise it to the user"
    TELL = "raise it to the user, who may push something else"

    @property
    def passes(self) -> bool:
        """Whether the same request may be answered later."""
        return self in (Reaction.AGAIN, Reaction.WAIT)


REACTIONS = MappingProxyType(
    # Whatever a newer server may say is the user's to see.
    dict.fromkeys(Code, Reaction.TELL)
    | {
        Code.STOPPING: Reaction.AGAIN,
        Code.BUSY: Reaction.AGAIN,
        Code.OVER_QUOTA: Reaction.WAIT,
        # Also what a proxy's own 502 or 504 is read as.
        Code.INTERNAL: Reaction.AGAIN,
        Code.STORAGE_FAILED: Reaction.AGAIN,
        # Of another life: the server says which of the two is over.
        Code.UNKNOWN_NEIGHBOUR: Reaction.AGAIN,
        Code.OLD_EPOCH: Reaction.REJOIN,
        Code.NOT_JOINED: Reaction.REJOIN,
        Code.SUPERSEDED: Reaction.DROP,
        Code.NOT_GRANTED: Reaction.DROP,
        Code.WRONG_CLOCK: Reaction.DROP,
        Code.EVICTED: Reaction.NEW_LIFE,
        Code.STAGE_REPLACED: Reaction.NEXT_LIFE,
        Code.STAGE_LOST: Reaction.NEXT_LIFE,
        Code.FENCED: Reaction.STOP,
        Code.LEFT: Reaction.STOP,
        Code.QUARANTINED: Reaction.STOP,
        Code.FINISHED: Reaction.FINISH,
        Code.NON_FINITE: Reaction.SKIP,
        Code.UPDATE_TOO_LARGE: Reaction.SKIP,
        Code.DEADLOCK: Reaction.LEAVE,
        # Of credentials: no patience mends them.
        Code.UNAUTHENTICATED: Reaction.TELL,
        Code.FORBIDDEN: Reaction.TELL,
        Code.FOREIGN: Reaction.TELL,
    }
)
