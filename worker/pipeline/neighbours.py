"""The seam between computing and links: what a stage hands to another, and how it is sent and received."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from leeway.errors import LeewayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from leeway.protocol.handovers import Direction


@dataclass(frozen=True, slots=True)
class Handed:
    """What one stage hands to another."""

    direction: Direction
    micro_batch: int  # from 0; shares: 0
    samples: int  # in this micro-batch
    total: int  # in the whole batch of the iteration
    tensors: Mapping[str, torch.Tensor]  # by name, in order; detached, on the CPU or not


class Dropped(LeewayError):
    """The iteration was dropped: a stage was lost."""


class Unlike(Dropped):
    """Another stage's script has made another call for this iteration."""


class Neighbours(Protocol):
    """The other stages, for one iteration's life."""

    def send(self, stage: int, handed: Handed) -> None:
        """To that stage. Returns at once unless too much is in flight; then waits. Raises `Dropped`."""

    def receive(self, stage: int, direction: Direction, micro_batch: int) -> Handed:
        """From that stage; waits. Raises `Dropped`."""
