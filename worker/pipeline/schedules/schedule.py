"""What a schedule is: in which order a stage works on its micro-batches.

The one rule: pure. The same (stage, stages, micro-batches) gives the same list of actions, and who runs it waits for
what each of them needs: a forward for the activations of the stage before, a backward for the errors of the one behind.
All stages take their micro-batches forward, and backward, in ascending order, so that gradients are summed in the order
of a plain loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Act(StrEnum):
    FORWARD = "F"
    BACKWARD = "B"  # gradients of the inputs, for the stage before; unless the schedule splits, of the weights too
    WEIGHTS = "W"  # gradients of the weights, where the schedule splits


@dataclass(frozen=True, slots=True)
class Action:
    act: Act
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.act}{self.micro_batch}"


class Schedule(Protocol):
    """Stages and micro-batches are numbered from 0; there is at least one of each."""

    name: ClassVar[str]
    splits: ClassVar[bool]
    """Whether the backward pass is two actions."""

    def actions(self, stage: int, stages: int, micro_batches: int) -> Sequence[Action]:
        """All that the stage does in an iteration, in order."""

    def held(self, stage: int, stages: int, micro_batches: int) -> int:
        """Of how many micro-batches the stage keeps activations at most, at one moment."""


def forward(micro_batch: int) -> Action:
    return Action(Act.FORWARD, micro_batch)


def backward(micro_batch: int) -> Action:
    return Action(Act.BACKWARD, micro_batch)


def weights(micro_batch: int) -> Action:
    return Action(Act.WEIGHTS, micro_batch)
