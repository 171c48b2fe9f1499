"""One forward, one backward (PipeDream-Flush, Narayanan et al., ICML 2021, arXiv 2006.09503).

As soon as errors can come back, each forward is followed by a backward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from leeway.worker.pipeline.schedules.schedule import Action, backward, forward

if TYPE_CHECKING:
    from collections.abc import Sequence


class OneForwardOneBackward:
    """As long as GPipe; stage p of P keeps the activations of min(M, P - p) micro-batches at most."""

    name: ClassVar[str] = "1f1b"
    splits: ClassVar[bool] = False

    def actions(self, stage: int, stages: int, micro_batches: int) -> Sequence[Action]:
        ahead = self.held(stage, stages, micro_batches) - 1
        actions = [*map(forward, range(ahead))]
        for micro_batch in range(ahead, micro_batches):
            actions += forward(micro_batch), backward(micro_batch - ahead)
        return [*actions, *map(backward, range(micro_batches - ahead, micro_batches))]

    def held(self, stage: int, stages: int, micro_batches: int) -> int:
        return min(micro_batches, stages - stage)
