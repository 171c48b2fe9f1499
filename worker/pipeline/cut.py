"""The cut: which layers are in which stage.

The one rule: exact. No other cut of the same layers into as many consecutive parts, none of them empty, has a smaller
largest part (dynamic programming over the layers that the first p stages hold).
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# What a cut can be balanced by.
BALANCED = ("time", "memory")

# How many layers each stage holds.
Cut: TypeAlias = "tuple[int, ...]"

# What a stage costs: its number, and its layers from the first up to the last, which it does not hold.
Cost: TypeAlias = "Callable[[int, int, int], float]"


def balanced(layers: int, stages: int, cost: Cost) -> Cut:
    """A cut whose most expensive stage costs least; the same costs always give the same cut.

    Calls `cost` P L^2 / 2 times. Raises `ValueError` for more stages than layers.
    """
    _check_count(layers, stages)
    # For each number of layers: the least largest part of the stages so far, and where the last of them begins.
    least = [cost(0, 0, end) if end else float("inf") for end in range(layers + 1)]
    begins: list[list[int]] = []
    for stage in range(1, stages):
        before, least, begin_of = least, [float("inf")] * (layers + 1), [0] * (layers + 1)
        for end in range(stage + 1, layers + 1):
            for begin in range(end - 1, stage - 1, -1):
                largest = max(before[begin], cost(stage, begin, end))
                if largest < least[end]:
                    least[end], begin_of[end] = largest, begin
        begins.append(begin_of)
    sizes: list[int] = []
    end = layers
    for begin_of in reversed(begins):
        sizes.append(end - begin_of[end])
        end = begin_of[end]
    return (end, *reversed(sizes))


def sums(rows: Sequence[Sequence[float]]) -> Cost:
    """The cost of layers that add up: a row for each stage, because each has a machine of its own, in it each layer."""
    totals = [list(accumulate(row, initial=0.0)) for row in rows]
    return lambda stage, begin, end: totals[stage][end] - totals[stage][begin]


def parts(cut: Cut) -> list[tuple[int, int]]:
    """The first layer of each stage, and the first behind it."""
    ends = list(accumulate(cut))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def read(text: str, layers: int, stages: int) -> Cut:
    """The cut that a user wrote: "2,3,3", the number of layers of each stage. Raises `ValueError`."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError(
            f"the cut {text[:80]!r} must be time, memory, or numbers of layers such as 2,3,3, one for each stage"
        )
    cut = tuple(map(int, words))
    check(cut, layers, stages)
    return cut


def check(cut: Cut, layers: int, stages: int) -> None:
    """Raise `ValueError` for a cut that does not fit."""
    _check_count(layers, stages)
    written = ",".join(map(str, cut))
    if len(cut) != stages:
        raise ValueError(f"the cut {written} is for {len(cut)} stages, and there are {stages}; give a number for each")
    if min(cut) < 1:
        raise ValueError(f"the cut {written} has a stage without layers; give each at least one")
    if sum(cut) != layers:
        raise ValueError(f"the cut {written} has {sum(cut)} layers, and the model {layers}; let the numbers add up")


def _check_count(layers: int, stages: int) -> None:
    if stages < 1:
        raise ValueError(f"{stages} stages; there must be at least 1")
    if stages > layers:
        raise ValueError(
            f"{stages} stages, and the model has {layers} layers; use at most {layers} stages, or name smaller blocks"
        )
