"""A version: which published state of a group is meant.

The one rule: within an epoch numbers grow by one; a new epoch begins with every start that is not from a
cleanly saved state, so an old ETag can never match by accident.
"""

from __future__ import annotations

from dataclasses import dataclass

from leeway.errors import MalformedRequest


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """(epoch, number). Number 0 is the empty state before a group has any parameter."""

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}"

    @property
    def etag(self) -> str:
        """The HTTP entity tag, in quotes."""
        return f'"{self}"'

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read `epoch.number`, with or without the quotes of an ETag.

        Raises `MalformedRequest` when it is not of that form.
        """
        epoch, dot, number = text.strip().removeprefix("W/").strip('"').partition(".")
        if not (dot and epoch.isascii() and epoch.isdigit() and number.isascii() and number.isdigit()):
            raise MalformedRequest(f"version {text[:80]!r} is not of the form epoch.number, as in 17.42")
        if len(epoch) > 18 or len(number) > 18:
            raise MalformedRequest(f"version {text[:80]!r} is out of range: at most 18 digits each")
        return cls(int(epoch), int(number))
