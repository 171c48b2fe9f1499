"""How good the parameters are on the held-out data, found out in the middle of training.

The one rule: training goes on as if nothing had been: the module's modes and values, its gradients and torch's random
generators are as they were before.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import structlog
import torch

from leeway.protocol import limits
from leeway.worker.train.tasks.contexts import evaluating
from leeway.worker.watching.catalogue import HELD_OUT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.worker.train.tasks.task import Task

log = structlog.get_logger("worker")


class Figures:
    """The newest figures on the held-out data, by the task's names, for an evaluation at every `every`-th iteration (0:
    at none)."""

    def __init__(self, every: int) -> None:
        self._every = every
        self.newest: Mapping[str, float] = {}

    def due(self, iteration: int) -> bool:
        return self._every > 0 and iteration % self._every == 0

    def forget(self) -> None:
        """Another worker evaluates now."""
        self.newest = {}

    def reported(self) -> dict[str, float]:
        """As they go with a push: named test_..., one fewer than a push has room for."""
        named = ((HELD_OUT + name, float(figure)) for name, figure in self.newest.items())
        return dict(islice(named, limits.MAX_REPORTED_METRICS - 1))

    def log(self, version: int) -> None:
        """How good the parameters are that were pulled last."""
        if self.newest:
            rounded = {name: round(figure, 4) for name, figure in self.newest.items()}
            log.info("evaluated", version=version, **rounded)


class Evaluation(Figures):
    """Evaluates a module."""

    def __init__(self, task: Task, model: torch.nn.Module, device: torch.device, every: int) -> None:
        super().__init__(every)
        self._task = task
        self._model = model
        self._device = device
        self._told = False

    def run(self) -> Mapping[str, float]:
        """Evaluate the parameters that the module holds. What the task raises comes through.

        That there is nothing to evaluate with is told once.
        """
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), evaluating(self._model):
            self.newest = self._task.evaluate(self._model, self._device)
        if not self.newest and not self._told:
            self._told = True
            log.warning("not evaluated", detail="no samples are held out among those that this worker has read")
        return self.newest
