"""ZB-H1 (Qi et al., ICLR 2024, arXiv 2401.10241, section 2.3): the backward pass in its halves, input gradients first.

Errors go back sooner, and weight gradients fill what would be bubble: (P - 1)(F + B - W) of it is left, a third of that
of 1F1B where all three take as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from leeway.worker.pipeline.schedules.one_forward_one_backward import OneForwardOneBackward
from leeway.worker.pipeline.schedules.schedule import Act, Action, weights

if TYPE_CHECKING:
    from collections.abc import Sequence


class ZbH1:
    """As 1F1B, and stage p puts the weight gradients off by p micro-batches. So each stage keeps the activations of as
    many as the first one does under 1F1B: min(M, P)."""

    name: ClassVar[str] = "zb-h1"
    splits: ClassVar[bool] = True

    def actions(self, stage: int, stages: int, micro_batches: int) -> Sequence[Action]:
        actions = []
        for action in OneForwardOneBackward().actions(stage, stages, micro_batches):
            actions.append(action)
            if action.act is Act.BACKWARD and action.micro_batch >= stage:
                actions.append(weights(action.micro_batch - stage))
        return [*actions, *map(weights, range(max(0, micro_batches - stage), micro_batches))]

    def held(self, stage: int, stages: int, micro_batches: int) -> int:
        return min(micro_batches, stages)
