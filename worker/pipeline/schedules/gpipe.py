"""GPipe (Huang et al., NeurIPS 2019, arXiv 1811.06965): all forwards, then all backwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from leeway.worker.pipeline.schedules.schedule import Action, backward, forward

if TYPE_CHECKING:
    from collections.abc import Sequence


class GPipe:
    """Keeps the activations of all micro-batches until the last of them is through."""

    name: ClassVar[str] = "gpipe"
    splits: ClassVar[bool] = False

    def actions(self, stage: int, stages: int, micro_batches: int) -> Sequence[Action]:
        return [*map(forward, range(micro_batches)), *map(backward, range(micro_batches))]

    def held(self, stage: int, stages: int, micro_batches: int) -> int:
        return micro_batches
