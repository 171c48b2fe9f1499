"""How a stage is trained: what a user says of it, checked before a server has heard of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from leeway.protocol import limits
from leeway.protocol.fields import MAX_INTEGER, shown
from leeway.worker import arguments
from leeway.worker.pipeline.cut import BALANCED, read
from leeway.worker.pipeline.layers import Layers
from leeway.worker.pipeline.schedules import schedule as schedule_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leeway.worker.pipeline.computing import Loss
    from leeway.worker.pipeline.layers import Model
    from leeway.worker.pipeline.schedules.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Settings:
    """How a stage is trained; `TrainingSession.pipeline` says what each is."""

    stages: int
    stage: int
    micro_batches: int
    schedule: Schedule
    cut: str = "time"
    loss: Loss | None = None
    seed: int = 0
    recompute: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def last(self) -> bool:
        return self.stage == self.stages - 1

    @property
    def measured(self) -> bool:
        """Whether the cut comes of measurements."""
        return self.cut in BALANCED and self.stages > 1

    @property
    def room(self) -> int:
        """How many handovers of one neighbour and direction may wait here: so far one may be ahead."""
        return max(self.schedule.held(stage, self.stages, self.micro_batches) for stage in range(self.stages))


def pipeline_of(
    model: Model,
    stages: Any,
    stage: Any,
    micro_batches: Any,
    loss: Loss | None,
    blocks: str | Iterable[str] | None,
    cut: Any,
    schedule: Any,
    seed: Any,
    device: str | torch.device,
    *,
    recompute: bool,
) -> tuple[Settings, Layers]:
    """Raises `ValueError` for what cannot be."""
    stages = arguments.integer("stages", stages, 1, limits.MAX_STAGES)
    stage = arguments.integer("stage", stage, 0, MAX_INTEGER)
    if stage >= stages:
        raise ValueError(f"stage is {stage}, and there are {stages}: they are numbered from 0 to {stages - 1}")
    micro_batches = arguments.integer("micro_batches", micro_batches, 1, limits.MAX_PARTS)
    seed = arguments.integer("seed", seed, 0, MAX_INTEGER)
    chosen = schedule_of(arguments.text("schedule", schedule, "1f1b") or "1f1b")
    layers = Layers(model, blocks)
    text = arguments.text("cut", cut, "time") or "time"
    if stages > len(layers):
        most = f"use at most {len(layers)} stages, or name smaller blocks"
        raise ValueError(f"{stages} stages, and the model has {len(layers)} layers; {most}")
    if text not in BALANCED:
        read(text, len(layers), stages)
    if stage == stages - 1 and not callable(loss):
        raise ValueError(f"loss is {shown(loss)}, and the last stage needs one: loss(output, target), a mean")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device is {shown(device)}, it must be one of torch's, such as cpu or cuda:0") from None
    try:
        torch.empty(0, device=place).cpu()
    except (RuntimeError, AssertionError) as error:  # the latter where this torch has no CUDA
        why = str(error).partition("\n")[0]
        raise ValueError(f"device is {shown(device)}, and nothing can be computed there: {why}") from None
    return Settings(stages, stage, micro_batches, chosen, text, loss, seed, bool(recompute), place), layers
