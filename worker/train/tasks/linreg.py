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

from leeway.worker.train.data import howell
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.contexts import seeded
from leeway.worker.train.tasks.line import Line
from leeway.worker.train.tasks.task import choose_model

if TYPE_CHECKING:
    from pathlib import Path

ADULT_YEARS = 18
_HELD_OUT_EVERY = 5


class LinearRegression(Line):
    """weight in kg = slope * standardised height + intercept. Two parameters."""

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
        super().__init__(
            Labelled(standardised[~held_out], target[~held_out]), Labelled(standardised[held_out], target[held_out])
        )

    def model(self, seed: int) -> torch.nn.Module:
        """Return `Linear(1, 1)`: float32 `weight` (1, 1), the slope, and `bias` (1,), the intercept."""
        with seeded(seed):
            return torch.nn.Linear(1, 1)
