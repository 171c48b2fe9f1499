"""How good each downloaded version is, found out after the run.

The one rule: a version stands at the moment at which the server published it, whenever it was downloaded or evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from leeway.worker.train.tasks.task import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.demo.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Point:
    """Test accuracy (0 to 1) of a version, `seconds` after the start, when so many updates were in it."""

    version: int
    seconds: float
    updates: int
    accuracy: float


class Evaluator:
    """Holds a built-in task's test data and one model to load versions into."""

    def __init__(self, task: str) -> None:
        torch.set_num_threads(1)
        self._task = resolve(task)(Path(), None)
        self._model = self._task.model(seed=0)

    def accuracy(self, version: bytes) -> float:
        """Test accuracy of a version, a safetensors file."""
        self._model.load_state_dict(safetensors.torch.load(version))
        return self._task.evaluate(self._model, torch.device("cpu"))["accuracy"]


def curve(accuracies: Mapping[int, float], timeline: Timeline) -> list[Point]:
    """Accuracies by version, at the moments at which the versions came out. The initial values stand at 0 s."""
    points = []
    updates = 0
    for version, moment in sorted(timeline.published.items()):
        updates += timeline.updates.get(version, 0)
        if version in accuracies:
            points.append(Point(version, max(0.0, moment - timeline.start), updates, accuracies[version]))
    return points


def reached(points: Sequence[Point], target: float) -> float | None:
    """Seconds until the first downloaded version with at least this accuracy; None: there was none."""
    return next((point.seconds for point in points if point.accuracy >= target), None)
