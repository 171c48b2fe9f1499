"""The headers that say something of a message: their names, and how they are read.

The one rule: what is written here is read here.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, Final

from leeway.errors import MalformedRequest
from leeway.protocol import documents, limits

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCEPT: Final = "Accept"
PREFER: Final = "Prefer"
IF_NONE_MATCH: Final = "If-None-Match"
ETAG: Final = "Etag"
RETRY_AFTER: Final = "Retry-After"
LOCATION: Final = "Location"

# After this long a client may ask again: long enough not to hurt, short enough not to be noticed.
RETRY_AFTER_SECONDS = 1

_ZERO_WEIGHT = re.compile(r"q\s*=\s*0(\.0*)?")


def accepted(accept: str | None) -> frozenset[str]:
    """The media ranges that the asker takes (RFC 9110, 12.5.1): those of `Accept` with a weight above zero."""
    ranges = ("*/*" if accept is None else accept).lower().split(",")
    parts = [[part.strip() for part in media.split(";")] for media in ranges]
    return frozenset(kind for kind, *others in parts if not any(_ZERO_WEIGHT.fullmatch(other) for other in others))


def prefer_wait(seconds: float) -> str:
    return f"wait={seconds:g}"


def wait_seconds(prefer: str | None) -> float | None:
    """`Prefer: wait=SECONDS` (RFC 7240), at most `MAX_WAIT_SECONDS`; None when the asker does not want to wait."""
    for preference in (prefer or "").split(","):
        name, _, value = preference.strip().partition("=")
        if name.strip().lower() == "wait":
            try:
                seconds = float(value.strip().strip('"'))
            except ValueError:
                seconds = math.nan
            if not seconds >= 0:
                raise MalformedRequest(f"Prefer: wait={value[:40]!r} must be a number of seconds, 0 or more")
            return min(seconds, limits.MAX_WAIT_SECONDS)
    return None


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The server's wish. The form with a date is for caches and robots; nothing of ours sends it."""
    text = headers.get(RETRY_AFTER, "")
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None


def compact(value: Mapping[str, Any]) -> str:
    """JSON for a header: one line, ASCII."""
    return json.dumps(value, separators=(",", ":"))


def fields_in(headers: Mapping[str, str], name: str, status: int) -> Any:
    """What `compact` wrote. Raises `ValueError`."""
    if name not in headers:
        raise ValueError(f"HTTP {status} without the header {name}")
    return documents.parse(headers[name])
