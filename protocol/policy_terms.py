"""What a policy is set to: a mode and its numbers, from a flag, a request or a saved state to the policy itself.

The one rule: terms are what somebody has asked for, and `check` alone says whether they make a policy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from leeway.protocol import limits
from leeway.protocol.fields import MAX_INTEGER

if TYPE_CHECKING:
    from leeway.protocol.fields import Fields

MODES = ("sync", "async", "ssp")

# Seconds; auto: as the pace of the pushes advises.
Grace = float | Literal["auto"]


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """`staleness`: the bound in clocks, for ssp alone, which needs it.

    `quorum`: how many pushes a round of sync closes with, all when it is None; `grace_seconds` after the last of them.
    A quorum without a grace has the grace `auto`.
    """

    mode: str
    staleness: int | None = None
    quorum: int | None = None
    grace_seconds: Grace | None = None

    def __post_init__(self) -> None:
        if self.quorum is not None and self.grace_seconds is None:
            object.__setattr__(self, "grace_seconds", "auto")

    def __str__(self) -> str:
        """As people write it: `ssp(3)`, `sync(quorum 3, grace 0.5 s)`."""
        if self.quorum is not None:
            return f"{self.mode}(quorum {self.quorum}, grace {self.grace_in_words})"
        return self.mode if self.staleness is None else f"{self.mode}({self.staleness})"

    @property
    def grace_in_words(self) -> str:
        """`0.5 s` or `auto`."""
        grace = self.grace_seconds
        return f"{grace:g} s" if isinstance(grace, (int, float)) else str(grace)

    def check(self) -> None:
        """Raise `ValueError` for an unknown mode, a number that is out of range, or that the mode does not take."""
        mode, staleness, quorum, grace_seconds = self.mode, self.staleness, self.quorum, self.grace_seconds
        if mode not in MODES:
            raise ValueError(f"unknown policy {mode!r}: choose one of {', '.join(MODES)}")
        if mode != "ssp" and staleness is not None:
            raise ValueError(f"policy {mode} takes no staleness bound ({staleness} given); only ssp does")
        if mode != "sync" and quorum is not None:
            raise ValueError(
                f"policy {mode} takes no quorum ({quorum} given); only sync does, the others have no rounds"
            )
        if quorum is None and grace_seconds is not None:
            raise ValueError(f"a grace ({self.grace_in_words} given) is for a quorum; give a quorum too")
        if mode == "ssp" and staleness is None:
            raise ValueError("policy ssp needs a staleness bound: 0 or more clocks")
        if staleness is not None and not 0 <= staleness <= limits.MAX_STALENESS:
            raise ValueError(f"the staleness bound is {staleness}, it must be from 0 to {limits.MAX_STALENESS}")
        if quorum is not None and not 1 <= quorum <= limits.MAX_RANKS:
            raise ValueError(f"the quorum is {quorum}, it must be from 1 to {limits.MAX_RANKS}")
        if isinstance(grace_seconds, (int, float)) and not 0 <= grace_seconds <= limits.MAX_GRACE_SECONDS:
            raise ValueError(
                f"the grace is {self.grace_in_words}, it must be from 0 to {limits.MAX_GRACE_SECONDS:g}, or auto"
            )

    @classmethod
    def read(cls, fields: Fields, *, wanted: bool = False) -> PolicyTerms:
        """`wanted`: by a peer, within our limits; else those of a server, which may have others."""
        most: tuple[int, int, float] = (MAX_INTEGER, MAX_INTEGER, math.inf)
        if wanted:
            most = (limits.MAX_STALENESS, limits.MAX_RANKS, limits.MAX_GRACE_SECONDS)
        staleness = fields.integer("staleness", 0, most[0]) if "staleness" in fields else None
        quorum = fields.integer("quorum", 1, most[1]) if "quorum" in fields else None
        grace_seconds: Grace | None = None
        if fields.says("grace_seconds", "auto"):
            grace_seconds = "auto"
        elif "grace_seconds" in fields:
            grace_seconds = fields.number("grace_seconds", 0.0, most[2], other='"auto"')
        return cls(fields.text("mode", 32), staleness, quorum, grace_seconds)

    def to_fields(self) -> dict[str, Any]:
        """All of them, for messages and files; None is what is not there, and the grace `auto`."""
        return {
            "mode": self.mode,
            "staleness": self.staleness,
            "quorum": self.quorum,
            "grace_seconds": None if self.grace_seconds == "auto" else self.grace_seconds,
        }
