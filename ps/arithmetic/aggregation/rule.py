"""What an aggregation is: many contributions in, one gradient out.

The one rule: a rule sees trainable tensors only, in the order it is given (natural rank order), and its
result is a function of that alone: bit-identical from run to run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from leeway.ps.arithmetic.values import Values

if TYPE_CHECKING:
    from leeway.ps.arithmetic.runs import Run

# Gives values in the group's layout to write results into (see `flat`), the same each time within a step.
Scratch: TypeAlias = Callable[[], Values]


@dataclass(frozen=True, slots=True)
class Contribution:
    """One member's part of a round: its weight, and what it sent of the tensors in question."""

    samples: int
    runs: Sequence[Run]


class Aggregation(Protocol):
    def __call__(self, contributions: Sequence[Contribution], scratch: Scratch) -> list[Run]:
        """The gradient of one step: for each tensor that anybody sent, its aggregated value.

        The runs returned do not overlap and come in the order of the layout; their values lie in the
        scratch, or in a contribution's own memory where nothing had to be computed. Contributions are
        never written to.
        """
