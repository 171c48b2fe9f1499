"""JSON from a peer or a file, taken as one thing or not at all.

The one rule: whatever the text is, it ends in a value that every reader would read the same, or in a `ValueError`: not
in a `RecursionError` for what is nested too deep, and not in one of two values for a key that stands there twice.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from leeway.protocol.fields import shown


def parse(text: str | bytes | bytearray) -> Any:
    """The value of a JSON text. Raises `ValueError` in words that go behind "is no JSON: "."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        # Python's own words speak of its stack.
        raise ValueError("nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"the key {shown(counts.most_common(1)[0][0])} is there twice")
    return members
