"""Plain data (JSON, or what msgpack carries), changed in one place.

The one rule: what comes out can be written again, so that a change is one of meaning and not of form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

# Where readers have their edges.
EDGES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**53 - 1,
    2**53,
    2**63 - 1,
    2**64 - 1,
    -(2**63),
    0.5,
    -0.0,
    1e308,
    "",
    "a",
    "\x00",
    "ü",
    "..",
    "w" * 65,
    "x" * 600,
    [],
    [[]],
    {},
    {"a": {}},
)


def changed(value: Any, chance: Random, words: Sequence[str]) -> Any:
    """A copy of the value, of which one node, at any depth, is another."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(list(value))
        copy = dict(value)
        match chance.randrange(8):
            case 0:
                del copy[name]
            case 1:
                copy[chance.choice(words)] = _edge(chance, words)
            case 2:
                copy[chance.choice(words)] = copy.pop(name)
            case _:
                copy[name] = changed(value[name], chance, words)
        return copy
    if isinstance(value, list) and value and chance.random() < 0.85:
        index = chance.randrange(len(value))
        items = list(value)
        match chance.randrange(8):
            case 0:
                del items[index]
            case 1:
                items.insert(index, items[index])
            case 2:
                items.insert(index, _edge(chance, words))
            case 3:
                items[index], items[-1] = items[-1], items[index]
            case _:
                items[index] = changed(items[index], chance, words)
        return items
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.6:
        return max(-(2**63), min(2**64 - 1, value + chance.choice((1, -1, 63, 64, -64, value))))
    if isinstance(value, str) and value and chance.random() < 0.5:
        at = chance.randrange(len(value))
        return value[:at] + chance.choice(("", "0", ".", "-", "Z", "\u0130", value)) + value[at + 1 :]
    return _edge(chance, words)


def _edge(chance: Random, words: Sequence[str]) -> Any:
    return chance.choice(words) if chance.random() < 0.4 else chance.choice(EDGES)
