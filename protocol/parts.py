"""A part of what a worker trains is a group whose keys begin with its name: `PART/name`."""

from __future__ import annotations


def prefix(part: str) -> str:
    return f"{part}/"


def pattern(part: str) -> str:
    """All keys of the part. Names of groups have no character that a pattern takes for more than itself."""
    return f"{prefix(part)}*"
