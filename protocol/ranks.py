"""The stable name of a worker, and the order in which names stand everywhere.

The one rule: the order is natural (w2 before w10), so that sums over workers have one order for ever.
"""

from __future__ import annotations

import re
from functools import lru_cache

# The group that holds the keys of no other.
DEFAULT_GROUP = "default"

_RANK = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_DIGITS = re.compile(r"(\d+)", re.ASCII)


NAME_WORDS = "1 to 64 of the characters A-Z a-z 0-9 . _ -, and neither . nor .."
"""What `is_rank` takes, as errors say it."""


def is_rank(text: str) -> bool:
    """Whether the text may name a worker, a group or a barrier: `[A-Za-z0-9._-]{1,64}`, and not `.` or `..`.

    Those two are taken out of a URL's path on the way (RFC 3986, section 5.2.4).
    """
    return _RANK.fullmatch(text) is not None and text not in {".", ".."}


# Ranks are sorted at every join and leave, and there are few of them: a thousand workers join in half the time.
@lru_cache(maxsize=65_536)
def natural(rank: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key: runs of digits compare as numbers. Total: equal keys mean equal names."""
    return tuple((0, int(piece), piece) if piece.isdigit() else (1, 0, piece) for piece in _DIGITS.split(rank) if piece)
