"""Linear regression of weight on height, the one task whose best answer is known exactly.

The one rule: heights are standardised with the training data's mean and deviation, so the squared error's
curvature is 2 in every direction: gradient descent on all of them converges for any learning rate below 1.

Data: the 352 adults (18 years or older) of Howell1, as in McElreath, "Statistical Rethinking", chapter 4.
Children are left out because weight is not linear in height across ages. Every fifth adult of the file is
held out: 282 train, 70 test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from leeway.worker.train.data import howell
from leeway.worker.train.tasks.contexts import evaluating, seeded
from leeway.worker.train.tasks.task import Task, choose_model

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ADULT_YEARS = 18
_HELD_OUT_EVERY = 5


class LinearRegression(Task):
    """weight in kg = slope * standardised height + intercept, by mean squared error. Two parameters."""

    name = "linreg"

    def __init__(self, data_dir: Path, model: str | None = None) -> None:
        """Read Howell1; `DataError` if it cannot be, `TaskError` for a model other than "linear"."""
        choose_model(self.name, model, ("linear",))
        people = howell.load(data_dir)
        adult = people.age_years >= ADULT_YEARS
        height, weight = people.height_cm[adult], people.weight_kg[adult]
        held_out = np.arange(len(height)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
        self.mean_cm = float(height[~held_out].mean())
        self.deviation_cm = float(height[~held_out].std())
        standardised = ((height - self.mean_cm) / self.deviation_cm).astype(np.float32)[:, None]
        target = weight.astype(np.float32)[:, None]
        self._train = (standardised[~held_out], target[~held_out])
        self._test = (standardised[held_out], target[held_out])

    def model(self, seed: int) -> torch.nn.Module:
        """Return `Linear(1, 1)`: float32 `weight` (1, 1), the slope, and `bias` (1,), the intercept."""
        with seeded(seed):
            return torch.nn.Linear(1, 1)

    def train_samples(self) -> int:
        """Return how many adults are trained on."""
        return len(self._train[0])

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return standardised heights and weights in kg, both float32 (b, 1)."""
        heights, weights = self._train
        return torch.tensor(heights[indices], device=device), torch.tensor(weights[indices], device=device)

    def loss(self, model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error in kg^2."""
        return functional.mse_loss(model(inputs), targets)

    def evaluate(self, model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        """Return the mean squared error in kg^2 over the held-out adults, as `loss`."""
        heights, weights = (torch.tensor(column, device=device) for column in self._test)
        with evaluating(model):
            return {"loss": self.loss(model, heights, weights).item()}

    def least_squares(self) -> tuple[float, float]:
        """Return the best (slope, intercept) for the training data: kg a standard deviation, and kg."""
        heights, weights = (column[:, 0].astype(np.float64) for column in self._train)
        slope, intercept = np.polyfit(heights, weights, deg=1)
        return float(slope), float(intercept)
