"""The file of tokens."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

from leeway.errors import SettingError
from leeway.protocol.rights import Caller, Right
from leeway.transport.credentials import tokens
from leeway.transport.credentials.tokens import Entry, Tokens
from tests.fuzz import trees
from tests.fuzz.target import one_line, same

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from random import Random

WORDS = (
    "sha256",
    "rights",
    "ranks",
    *Right,
    "w0",
    "w1",
    '"""',
    "'''",
    "[[",
    "]]",
    "\\u0000",
    "1979-05-27",
    "inf",
    "0x1",
)


class Target:
    longest_bytes = 2048
    reserved_bytes = 0

    def __init__(self, folder: Path) -> None:
        self._path = folder / "tokens.toml"

    def seeds(self) -> Iterable[bytes]:
        boss = Entry(Caller("boss", frozenset({Right.ADMIN, Right.READER})), tokens.digest("a"))
        worker = Entry(Caller("w0", frozenset({Right.WORKER}), frozenset({"w0", "w1"})), tokens.digest("b"))
        yield tokens.written([boss, worker]).encode()
        yield tokens.written([worker]).encode()

    def words(self) -> Iterable[str]:
        return WORDS

    def take(self, data: bytes) -> bool:
        try:
            entries = self._read(data).entries
        except SettingError as error:
            one_line(error)
            return False
        same(entries, self._read(tokens.written(entries).encode()).entries, "the tokens")
        return True

    def mutated(self, data: bytes, chance: Random) -> bytes | None:
        try:
            tables = tomllib.loads(data.decode())
        except (ValueError, RecursionError):
            return None
        changed = trees.changed(tables, chance, WORDS)
        if not isinstance(changed, dict):
            return None
        lines = []
        for name, table in changed.items():
            if isinstance(table, dict):
                lines += [f"[{_key(name)}]", *(f"{_key(key)} = {_value(value)}" for key, value in table.items())]
        return "\n".join(lines).encode("utf-8", "replace")

    def _read(self, data: bytes) -> Tokens:
        self._path.write_bytes(data)
        self._path.chmod(0o600)
        return Tokens.read(self._path)


def _key(name: object) -> str:
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else "?" for c in str(name)) + '"'


def _value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items()) + "}"
        case _:
            return _key(value)
