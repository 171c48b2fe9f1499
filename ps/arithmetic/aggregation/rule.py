"""What an aggregation rule is: many updates in, one gradient out.

The one rule: it sees trainable tensors only, in natural order of the ranks that they are of, and what it gives is a
function of that and of its state alone: bit-identical from run to run.

A rule is one file: a frozen dataclass whose fields are its whole numbers, in the order in which users write them
(`trimmed-mean:1`), and a line in `registry`. These files know no torch: what they need of the updates, those compute
(`updates`), and so reading a configuration stays quick.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from leeway.ps.arithmetic.stages import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Rule(Stage):
    """`needs_rounds`: it would do nothing where each update is a step of its own, so it is refused there."""

    needs_rounds: ClassVar[bool] = True

    @property
    def least(self) -> int:
        """The fewest updates that it can aggregate."""
        return 1

    def __str__(self) -> str:
        numbers = ",".join(str(number) for number in dataclasses.astuple(self))
        return f"{self.name}:{numbers}" if numbers else self.name


def shares(samples: Sequence[int]) -> list[float]:
    """Each update's part of all samples."""
    total = sum(samples)
    assert total > 0, "a step needs samples"
    return [number / total for number in samples]


def at_least(least: int, **numbers: int) -> None:
    """Raise `ValueError` for a number of a rule that is smaller."""
    for name, value in numbers.items():
        if value < least:
            raise ValueError(f"{name.upper()} is {value}, it must be {least} or more")
