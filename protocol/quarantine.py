"""A rank is kept out, or let in again: what an admin asks for.

The one rule: whoever is kept out is told why, and so is everybody who looks on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from leeway.errors import MalformedRequest
from leeway.protocol.fields import Fields
from leeway.protocol.ranks import NAME_WORDS, is_rank

if TYPE_CHECKING:
    from collections.abc import Mapping

# Characters of a reason.
MAX_WHY: Final = 300


@dataclass(frozen=True, slots=True)
class Quarantine:
    """End the life of this rank, if it has one, and let it join no more."""

    rank: str
    why: str

    def __str__(self) -> str:
        return f"quarantine {self.rank}: {self.why}"

    @classmethod
    def read(cls, places: Mapping[str, str], fields: Fields) -> Quarantine:
        fields.only("why")
        return cls(_rank(places), fields.text("why", MAX_WHY))

    def to_fields(self) -> dict[str, Any]:
        return {"why": self.why}


@dataclass(frozen=True, slots=True)
class Release:
    """Let this rank join again."""

    rank: str

    def __str__(self) -> str:
        return f"release {self.rank}"

    @classmethod
    def read(cls, places: Mapping[str, str]) -> Release:
        return cls(_rank(places))


@dataclass(frozen=True, slots=True)
class QuarantineState:
    """`why` the rank is kept out; None: it is not."""

    rank: str
    why: str | None = None

    def __str__(self) -> str:
        return f"{self.rank} may join" if self.why is None else f"{self.rank} is in quarantine: {self.why}"

    @classmethod
    def read(cls, value: object) -> QuarantineState:
        fields = Fields(value, "quarantine")
        return cls(fields.rank("rank"), fields.text("why") if "why" in fields else None)

    def to_fields(self) -> dict[str, Any]:
        return {"rank": self.rank, "why": self.why}


def _rank(places: Mapping[str, str]) -> str:
    rank = places["rank"]
    if not is_rank(rank):
        raise MalformedRequest(f"a rank is {NAME_WORDS}, and not {rank[:80]!r}")
    return rank
