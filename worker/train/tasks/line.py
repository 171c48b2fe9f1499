"""What the tasks that fit a line share: batches of a number and its target, mean squared error, the best answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from leeway.worker.train.tasks.contexts import evaluating
from leeway.worker.train.tasks.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from leeway.worker.train.data.source import Labelled


class Line(Task, ABC):
    """target = slope * input + intercept, by mean squared error. A subclass gives `name` and `model`."""

    def __init__(self, train: Labelled, test: Labelled) -> None:
        """Keep the samples: inputs and labels float32 (n, 1)."""
        self._train = train
        self._test = test

    @abstractmethod
    def model(self, seed: int) -> torch.nn.Module:
        """Return a new `Linear(1, 1)`; see `Task.model`."""

    def train_samples(self) -> int:
        """Return how many training samples there are."""
        return len(self._train.labels)

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets of the training samples at `indices`, both float32 (b, 1)."""
        inputs, targets = self._train
        return torch.tensor(inputs[indices], device=device), torch.tensor(targets[indices], device=device)

    def loss(self, model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error, in the targets' unit squared."""
        return functional.mse_loss(model(inputs), targets)

    def evaluate(self, model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        """Return the mean squared error over the held-out samples, as `loss`; nothing if there are none."""
        if not len(self._test.labels):
            return {}
        inputs, targets = (torch.tensor(column, device=device) for column in self._test)
        with evaluating(model):
            return {"loss": self.loss(model, inputs, targets).item()}

    def least_squares(self) -> tuple[float, float]:
        """Return the best (slope, intercept) for the training samples."""
        inputs, targets = (column[:, 0].astype(np.float64) for column in self._train)
        slope, intercept = np.polyfit(inputs, targets, deg=1)
        return float(slope), float(intercept)
