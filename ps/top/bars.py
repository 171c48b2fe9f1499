"""Numbers as pictures of one line: bars and curves made of block characters.

The one rule: what is not zero can be seen.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOWER = "▁▂▃▄▅▆▇█"
_LEFT = "▏▎▍▌▋▊▉█"
_BOUND = "│"


def bar(value: int, scale: int, cells: int, bound: int | None = None) -> str:
    """A bar of `value` of `scale`, to the right, in `cells` cells; a stroke stands where `bound` is."""
    eighths = round(8 * cells * min(value, scale) / scale)
    eighths = max(eighths, 1) if value > 0 else 0
    full, part = divmod(eighths, 8)
    drawn = ("█" * full + (_LEFT[part - 1] if part else "")).ljust(cells)
    if bound is None or bound >= scale:
        return drawn
    place = min(cells - 1, round(cells * bound / scale))
    return drawn[:place] + _BOUND + drawn[place + 1 :]


def columns(values: Sequence[float]) -> list[str]:
    """A column for each value, the largest one full; of zero it is empty."""
    most = max(values, default=0)
    return [_LOWER[max(0, round(8 * value / most) - 1)] if value > 0 else " " for value in values]


def spark(values: Sequence[float], cells: int) -> str:
    """A curve in at most `cells` cells, from the lowest value to the highest; many values are averaged in one cell."""
    cells = min(cells, len(values))
    edges = [round(place * len(values) / cells) for place in range(cells + 1)]
    # Divided before they are added: the sum of two large floats may be none.
    means = [sum(value / (end - begin) for value in values[begin:end]) for begin, end in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return _LOWER[0] * cells
    # Halves likewise: so may be the difference.
    return "".join(_LOWER[round(7 * ((value / 2 - low / 2) / (high / 2 - low / 2)))] for value in means)
