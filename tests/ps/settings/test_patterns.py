"""Patterns that take all of another's keys: what is called so is so."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import product

import pytest

from leeway.ps.settings.patterns import takes_all_of

PATTERNS = ["".join(letters) for length in range(1, 4) for letters in product("ab*?[]", repeat=length)]
KEYS = ["".join(letters) for length in range(6) for letters in product("ab[", repeat=length)]


@pytest.mark.parametrize(
    "earlier", ["*", "**", "a*", "*a", "a*b", "*a*", "a", "ab", "?", "a?", "[a]", "[ab]", "a*]", "b]"]
)
def test_no_key_is_lost(earlier: str) -> None:
    """Against all keys of up to five characters."""
    fits = {key for key in KEYS if fnmatchcase(key, earlier)}
    for later in PATTERNS:
        if takes_all_of(earlier, later):
            assert all(key in fits for key in KEYS if fnmatchcase(key, later)), later


@pytest.mark.parametrize(
    ("earlier", "later"), [("*", "[ab]?"), ("a.*", "a.?.b"), ("*.weight", "x.*.weight"), ("?", "?")]
)
def test_what_is_plain_is_found(earlier: str, later: str) -> None:
    assert takes_all_of(earlier, later)
    assert earlier == later or not takes_all_of(later, earlier)
