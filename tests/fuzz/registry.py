"""All that is fuzzed, by name, and how the inputs of a run are shared out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fuzz.target import Target

# Name: its share. A reader of files takes longer for an input, so it gets fewer.
SHARES: Final = {
    "frames": 25,
    "handovers": 15,
    "requests": 25,
    "replies": 25,
    "surface": 5,
    "tokens": 4,
    "checkpoints": 1,
}


def target(name: str, folder: Path) -> Target:
    made: Target = import_module(f"tests.fuzz.{name}").Target(folder)
    return made


def shares(inputs: int, names: list[str]) -> dict[str, int]:
    """How many inputs each of these gets, at least one."""
    total = sum(SHARES[name] for name in names)
    return {name: max(1, inputs * SHARES[name] // total) for name in names}
