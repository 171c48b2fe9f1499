"""The tokens that a listener takes: a file of their hashes, with what each of them may do.

    [w0]
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    rights = ["worker"]
    ranks = ["w0"]

The one rule: the file tells nobody a token. A token is 256 random bits, so its SHA-256 alone is no way back to it, and
how long a look-up takes tells nothing that is of use.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import tomllib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from leeway.errors import SettingError
from leeway.protocol.fields import shown
from leeway.protocol.ranks import NAME_WORDS, is_rank
from leeway.protocol.rights import Caller, Callers, Right, listed
from leeway.transport.credentials import secret_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# What a token begins with, so that people and scanners of repositories know one when they see it.
PREFIX: Final = "leeway_"

_RANDOM_BYTES: Final = 32
LOOKS_LIKE_A_TOKEN: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
_HASH_DIGITS: Final = 64
# By so many of them a token is looked up: two tokens that have these in common are found once in 2^80 pairs.
_INDEXED_DIGITS: Final = 20
_KEYS: Final = ("sha256", "rights", "ranks")


def draw() -> str:
    """A new token."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest(token: str) -> str:
    """As it stands in the file."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """A token as the file knows it."""

    caller: Caller
    sha256: str


class Tokens:
    """Made by `read`."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.callers = Callers({entry.caller.name: entry.caller for entry in entries})
        self._by_hash = {entry.sha256[:_INDEXED_DIGITS]: (entry.sha256, entry.caller) for entry in entries}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises `SettingError`, naming the file and the token, for what is not as it should be."""
        text = secret_files.read(path, "tokens file")
        try:
            content = tomllib.loads(text.decode())
        except (ValueError, RecursionError) as error:
            raise SettingError(f"tokens file {path} is not valid TOML: {error}") from None
        if not content:
            raise SettingError(f"tokens file {path} has no token: with it nobody would get in")
        entries = [_entry(f"tokens file {path}, [{_printable(name)}]", name, table) for name, table in content.items()]
        counts = Counter(entry.sha256 for entry in entries)
        if same := [entry.caller.name for entry in entries if counts[entry.sha256] > 1]:
            raise SettingError(f"tokens file {path}: {listed(same)} are the same token; give each one its own")
        return cls(entries)

    def caller(self, token: str) -> Caller | None:
        """Whose this token is."""
        return self.of_hash(digest(token))

    def of_hash(self, sha256: str) -> Caller | None:
        """Whose the token of this hash is."""
        # The look-up compares a hash that nobody can choose; what decides takes as long for every other token.
        known, caller = self._by_hash.get(sha256[:_INDEXED_DIGITS], ("", None))
        return caller if hmac.compare_digest(known, sha256) else None


def written(entries: Iterable[Entry]) -> str:
    """The file of these, as `Tokens.read` reads it."""
    lines = ["# The tokens' SHA-256, and what each of them may do. Whoever has none of these gets in nowhere."]
    for entry in entries:
        caller = entry.caller
        lines += ["", f'["{caller.name}"]', f'sha256 = "{entry.sha256}"', f"rights = {_list(caller.rights)}"]
        lines += [] if caller.ranks is None else [f"ranks = {_list(caller.ranks)}"]
    return "\n".join(lines) + "\n"


def _list(texts: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{text}"' for text in sorted(texts)) + "]"


def _printable(name: str) -> str:
    return name if is_rank(name) else shown(name)


def _entry(where: str, name: str, table: Any) -> Entry:
    if not is_rank(name):
        raise SettingError(f"{where}: a token's name is {NAME_WORDS}")
    if not isinstance(table, dict):
        raise SettingError(f"{where} must be a table with {', '.join(_KEYS)}")
    if strange := sorted(set(table).difference(_KEYS)):
        raise SettingError(f"{where}: {shown(strange[0])} is not known; there are {', '.join(_KEYS)}")
    sha256 = table.get("sha256")
    if not (isinstance(sha256, str) and len(sha256) == _HASH_DIGITS and set(sha256) <= set("0123456789abcdef")):
        raise SettingError(f"{where}: sha256 must be the token's SHA-256, {_HASH_DIGITS} lower-case hexadecimal digits")
    rights = _texts(f"{where}: rights", table.get("rights"))
    for right in rights:
        if right not in list(Right):
            raise SettingError(f"{where}: there is no right {shown(right)}; there are {', '.join(Right)}")
    ranks = table.get("ranks")
    if ranks is not None:
        for rank in _texts(f"{where}: ranks", ranks):
            if not is_rank(rank):
                raise SettingError(f"{where}: {shown(rank)} is no rank: {NAME_WORDS}")
        if Right.WORKER not in rights:
            raise SettingError(f"{where}: ranks are for the right {Right.WORKER}, which this token has not")
    return Entry(Caller(name, frozenset(map(Right, rights)), None if ranks is None else frozenset(ranks)), sha256)


def _texts(where: str, value: Any) -> list[str]:
    if not (isinstance(value, list) and value and all(isinstance(each, str) for each in value)):
        raise SettingError(f'{where} must be a list of text that is not empty, such as ["worker"]')
    return value
