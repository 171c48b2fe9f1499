"""A verdict and its reason, together: neither exists without the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leeway.protocol.pulls import NotYet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leeway.protocol.reasons import Reason


@dataclass(frozen=True, slots=True)
class Answer:
    """The pull may be answered now."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Park:
    """The pull has to wait: why, in words, and for whom, until they come to `clock`."""

    reason: Reason
    detail: str
    waiting_for: tuple[str, ...] = ()
    clock: int = 0

    def to_reply(self) -> NotYet:
        return NotYet(self.reason, self.detail, self.waiting_for)


Decision = Answer | Park

# Names beyond this many say nothing more to a person and would make a reply grow with the cluster.
MAX_NAMES_IN_WORDS = 8


def in_words(ranks: Iterable[str]) -> str:
    """`w1,w2`, and from the ninth on `... and 12 more`."""
    names = list(ranks)
    shown = ",".join(names[:MAX_NAMES_IN_WORDS])
    more = len(names) - MAX_NAMES_IN_WORDS
    return f"{shown} and {more} more" if more > 0 else shown or "nobody"
