"""How good the parameters of each snapshot are, found out after the run.

The one rule: nothing is judged while somebody trains, so judging costs no system any time.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from leeway.errors import TaskError
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.classification import Classification
from leeway.worker.train.tasks.task import resolve
from tests.load.trials import Point

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.load.scenario import Scenario
    from tests.load.trials import Snapshot


class Evaluator:
    """Holds a task's held-out data, and one model to load parameters into.

    Raises `TaskError` and `DataError` when there is no such task, or its data are not there.
    """

    def __init__(self, scenario: Scenario, data_dir: Path) -> None:
        torch.set_num_threads(os.cpu_count() or 1)
        self._task = resolve(scenario.task)(data_dir, scenario.model)
        if not isinstance(self._task, Classification):
            raise TaskError(f"{scenario.task} has no test accuracy; load tests compare classifiers")
        if scenario.test_samples is not None:
            self._task._test = Labelled(*(part[: scenario.test_samples] for part in self._task._test))
        self._model = self._task.model(seed=0)
        self._snapshot_seconds = scenario.snapshot_seconds

    def seconds(self, run_seconds: float) -> float:
        """About how long judging a run of that length takes."""
        for _ in range(2):  # the first time is not like the others
            began = time.monotonic()
            self._task.evaluate(self._model, torch.device("cpu"))
        return (time.monotonic() - began) * run_seconds / self._snapshot_seconds

    def points(self, snapshots: Iterable[Snapshot]) -> tuple[Point, ...]:
        return tuple(Point(one.seconds, one.updates, self.accuracy(one.body)) for one in snapshots)

    def accuracy(self, body: bytes) -> float:
        """Test accuracy of a safetensors file."""
        self._model.load_state_dict(safetensors.torch.load(body))
        return self._task.evaluate(self._model, torch.device("cpu"))["accuracy"]
