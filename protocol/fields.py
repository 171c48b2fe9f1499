"""Reads fields out of decoded JSON, msgpack or a query string, and names what is wrong with them.

The one rule: a field is taken with its type and its limits or refused with its name, its value and the limit. Only a
query string, which has nothing but text, may spell a number or a flag.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from leeway.errors import MalformedRequest
from leeway.protocol.ranks import NAME_WORDS, is_rank

if TYPE_CHECKING:
    from collections.abc import Mapping

# Fits msgpack, JSON readers with 64-bit integers, and a float64's exact range: no reader can get it wrong.
MAX_INTEGER = 2**53 - 1
MAX_TEXT = 4096


def shown(value: object) -> str:
    """A value as an error names it: at most 80 characters."""
    try:
        text = repr(value)
    except ValueError:
        # Python prints no integer of more than 4,300 digits.
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def bound(value: float, least: float, most: float) -> str:
    """What a number that is not from `least` to `most` has to be, in words."""
    if value > most:
        return f"{'finite and ' if value == math.inf else ''}at most {most:.0f}"
    return f"{least} or more"


class Fields:
    """A mapping from a peer, read field by field. Every method raises `MalformedRequest`."""

    def __init__(self, mapping: object, where: str) -> None:
        if not isinstance(mapping, dict):
            raise MalformedRequest(f"{where} must be an object, not {shown(mapping)}")
        self._mapping: Mapping[str, Any] = mapping
        self._where = where

    def __contains__(self, name: str) -> bool:
        return self._mapping.get(name) is not None

    def says(self, name: str, word: str) -> bool:
        """Whether the field is there and is this word."""
        return bool(self._mapping.get(name) == word)

    def only(self, *known: str) -> None:
        """For what a person sets: a field of another name is a slip of the pen, and is not passed over."""
        for name in self._mapping:
            if name not in known:
                raise MalformedRequest(f"{self._where}: {shown(name)} is not known; known are {', '.join(known)}")

    def _get(self, name: str) -> Any:
        value = self._mapping.get(name)
        if value is None:
            raise MalformedRequest(f"{self._where}: {name!r} is missing")
        return value

    def _refuse(self, name: str, value: object, wanted: str) -> MalformedRequest:
        return MalformedRequest(f"{self._where}: {name!r} is {shown(value)}, it must be {wanted}")

    def integer(self, name: str, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
        value = self._get(name)
        # bool is no number here.
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise self._refuse(name, value, f"an integer from {minimum} to {maximum}")
        return value

    def number(self, name: str, minimum: float = 0.0, maximum: float = math.inf, *, other: str = "") -> float:
        """`other`: what else the field may be, in the words of its refusal."""
        value = self._get(name)
        number = math.nan
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            # An integer beyond every float: it stays NaN, which is in no range.
            with suppress(OverflowError):
                number = float(value)
        if not minimum <= number <= maximum or math.isinf(number):
            raise self._refuse(name, value, f"a number from {minimum} to {maximum}{other and f', or {other}'}")
        return number

    def flag(self, name: str) -> bool:
        """Absent is false. 0 and 1 are taken too."""
        value = self._mapping.get(name)
        if value in (None, False, 0):
            return False
        if value in (True, 1):
            return True
        raise self._refuse(name, value, "true or false")

    def text(self, name: str, maximum: int = MAX_TEXT) -> str:
        value = self._get(name)
        if not isinstance(value, str) or not 1 <= len(value) <= maximum:
            raise self._refuse(name, value, f"text of 1 to {maximum} characters")
        return value

    def rank(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str) or not is_rank(value):
            raise self._refuse(name, value, NAME_WORDS)
        return value

    def listing(self, name: str, maximum: int) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, (list, tuple)) or len(value) > maximum:
            raise self._refuse(name, value, f"a list of at most {maximum}")
        return list(value)

    def integers(self, name: str, count: int, maximum: int = MAX_INTEGER) -> tuple[int, ...]:
        values = self.listing(name, count)
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
                raise self._refuse(name, value, f"a list of integers from 0 to {maximum}")
        return tuple(values)

    def mapping(self, name: str, maximum: int) -> dict[str, Any]:
        value = self._get(name)
        if not isinstance(value, dict) or len(value) > maximum or not all(isinstance(k, str) for k in value):
            raise self._refuse(name, value, f"an object of at most {maximum} members")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self._get(name)
        if value not in choices:
            raise self._refuse(name, value, "one of " + ", ".join(choices))
        return str(value)


class Query(Fields):
    """A query string, read field by field: digits are integers, "1" and "true" are true."""

    def __init__(self, mapping: Mapping[str, str], where: str = "query") -> None:
        super().__init__(dict(mapping), where)

    def integer(self, name: str, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
        text = self._mapping.get(name) or ""
        if text.isascii() and text.isdigit() and len(text) <= 16 and minimum <= int(text) <= maximum:
            return int(text)
        raise self._refuse(name, self._get(name), f"an integer from {minimum} to {maximum}")

    def number(self, name: str, minimum: float = 0.0, maximum: float = math.inf, *, other: str = "") -> float:
        text, number = self._get(name), math.nan
        if text.isascii() and len(text) <= 32:
            with suppress(ValueError):
                number = float(text)
        if not minimum <= number <= maximum or math.isinf(number):
            raise self._refuse(name, text, f"a number from {minimum} to {maximum}{other and f', or {other}'}")
        return number

    def flag(self, name: str) -> bool:
        """Absent is false. True is "1" or "true"."""
        match self._mapping.get(name):
            case None | "0" | "false":
                return False
            case "1" | "true":
                return True
            case text:
                raise self._refuse(name, text, "true or false")
