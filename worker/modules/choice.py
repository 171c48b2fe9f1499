"""What of a module travels: the names and patterns that `attach` was given.

The one rule: a name that the module has at attach means itself, whatever characters it has (`heads[0]` is a name that a
module can have, and as a pattern it would be `heads0`); everything else is a pattern as a shell has them, case matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class Names:
    """The names that `argument` means. Raises `ValueError` when that is no name or pattern, or several of them."""

    def __init__(self, argument: str, value: object) -> None:
        listed = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
        self._given = tuple(pattern for pattern in listed if isinstance(pattern, str))
        if len(self._given) < len(listed):
            raise ValueError(f"{argument} is {str(value)[:80]!r}, it must be a name or pattern, or several of them")
        self._in_full: frozenset[str] = frozenset()
        self._patterns = self._given

    def __bool__(self) -> bool:
        return bool(self._given)

    def __contains__(self, name: str) -> bool:
        return name in self._in_full or any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def judge(self, names: Collection[str]) -> str | None:
        """These are the names there are. Returns a pattern that means none of them, if there is one."""
        self._in_full = frozenset(self._given) & frozenset(names)
        self._patterns = tuple(pattern for pattern in self._given if pattern not in self._in_full)
        for pattern in self._patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                return pattern
        return None
