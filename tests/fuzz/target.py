"""What is fuzzed: a reader of bytes that others have made, and what must hold of it.

The one rule: whatever comes is accepted, or ends in the error that its page names; `take` raises for everything else.
What is accepted is written again and read back, and must be the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random


class Target(Protocol):
    """Made with a folder for files that it reads. `longest_bytes`: of an input. `reserved_bytes`: what it may hold
    beside a constant times the input: the size that an input may declare.
    """

    longest_bytes: int
    reserved_bytes: int

    def seeds(self) -> Iterable[bytes]:
        """Inputs in good order, from which fuzzing begins."""

    def words(self) -> Iterable[str]:
        """What stands in inputs, and is not found by chance."""

    def take(self, data: bytes) -> bool:
        """Whether this was accepted. Raises whatever is a finding."""

    def mutated(self, data: bytes, chance: Random) -> bytes | None:
        """The input with something changed of what it means. None: it means nothing."""


class Wordy(AssertionError):
    """An error for people that is no line."""


class Changed(AssertionError):
    """What was accepted reads otherwise when it is written again."""


def one_line(error: Exception) -> None:
    """Raise `Wordy` unless that is what it is."""
    if "\n" in str(error) or not str(error):
        raise Wordy(repr(error))


def same(first: object, second: object, what: str) -> None:
    """Raise `Changed` unless both are equal. NaN equals itself: what is compared is how it is shown."""
    if first != second and repr(first) != repr(second):
        raise Changed(f"{what}: {first!r} became {second!r}")
