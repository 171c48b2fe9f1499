"""The patterns of groups, and which of them come too late.

The one rule: a key goes to the first group that has a pattern for it, so a pattern behind one that takes all of its
keys is never asked. Only what is sure is called so.
"""

from __future__ import annotations

from fnmatch import fnmatchcase


def takes_all_of(earlier: str, later: str) -> bool:
    """Whether every key that fits the pattern `later` (of `fnmatch`) fits `earlier`. False where that is not sure."""
    if earlier == later or (earlier and not earlier.strip("*")):
        return True
    if set("?[") & set(earlier) or "[" in later:
        return False
    # Nothing in `earlier` but stars and plain characters: a star of `later` can only be taken by one of its stars.
    return fnmatchcase(later, earlier)
