"""The TOML file of `--config`: settings under the names of their flags, and a table for each named group.

The one rule: a value in the file means what it would mean behind its flag; a key nobody knows is an error that
names the nearest one that is known, where one is near.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leeway import regular
from leeway.errors import SettingError
from leeway.protocol import parts
from leeway.protocol.fields import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What stands in a file. Values are text, as they would be typed; `keys` of a group are its patterns."""

    path: Path
    settings: Mapping[str, str]
    group_settings: Mapping[str, Mapping[str, str]]
    group_keys: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, path: Path, known: Collection[str], known_in_groups: Collection[str]) -> ConfigFile:
        """Read the file. Raises `SettingError`, naming file and key, when it is not what it should be."""
        try:
            regular.check(path, open_pipes=True)
            with path.open("rb") as file:
                content = tomllib.load(file)
        except OSError as error:
            raise SettingError(f"{path}: {error.strerror}") from error
        except RecursionError:
            raise SettingError(f"{path} is not valid TOML: nested too deep") from None
        except ValueError as error:
            # TOML's own, text that is no UTF-8, and numbers of thousands of digits.
            raise SettingError(f"{path} is not valid TOML: {error}") from error
        tables = content.pop("group", {})
        if not (isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values())):
            raise SettingError(f"{path}: group must be tables, each headed [group.NAME]")
        server_wide = set(known) - set(known_in_groups)
        return cls(
            path,
            _texts(f"{path}", content, known, "group"),
            {
                name: _texts(f"{path}, [group.{name}]", _without_keys(table), known_in_groups, "keys", server_wide)
                for name, table in tables.items()
            },
            {name: _patterns(f"{path}, [group.{name}]", name, table) for name, table in tables.items()},
        )


def _without_keys(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "keys"}


def _patterns(where: str, name: str, table: Mapping[str, Any]) -> tuple[str, ...]:
    patterns = table.get("keys", [parts.pattern(name)])
    if not (isinstance(patterns, list) and patterns and all(isinstance(pattern, str) for pattern in patterns)):
        raise SettingError(f"{where}: keys must be a list of patterns, such as ['embedding.*']")
    return tuple(patterns)


def _texts(
    where: str, table: Mapping[str, Any], known: Collection[str], also: str, elsewhere: Collection[str] = ()
) -> dict[str, str]:
    """The values of a table as text. `also`: what else may stand in it, read by others."""
    texts = {}
    for key, value in table.items():
        if key in elsewhere:
            raise SettingError(f"{where}: {key} is a setting of the whole server; it stands above the tables")
        if key not in known:
            near = difflib.get_close_matches(key, [*known, also], n=1)
            advice = f"the nearest is {near[0]!r}" if near else "ps-serve config show lists them"
            raise SettingError(f"{where}: there is no setting {shown(key)}; {advice}")
        if not isinstance(value, (str, int, float)):
            raise SettingError(f"{where}: {key} must be a single text, number, true or false")
        try:
            texts[key] = str(value)
        except ValueError:
            # Hexadecimal: Python reads it, and prints no integer of more than 4,300 digits.
            raise SettingError(f"{where}: {key} is {shown(value)}") from None
    return texts
