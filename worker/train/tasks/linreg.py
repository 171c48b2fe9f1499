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
from leeway.worker.train.data.shares import joined
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.contexts import seeded
from leeway.worker.train.tasks.line import Line
from leeway.worker.train.tasks.task import choose_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ADULT_YEARS = 18
_HELD_OUT_EVERY = 5
# Of the 282 adults of Howell1 that are trained on: workers that read different files have to agree on them beforehand.
MEAN_CM, DEVIATION_CM = 154.7023, 7.8629

_NOBODY = Labelled(np.zeros((0, 1), np.float32), np.zeros((0, 1), np.float32))


class LinearRegression(Line):
    """weight in kg = slope * standardised height + intercept. Two parameters."""

    name = "linreg"

    def __init__(self, data_dir: Path, model: str | None = None, *, of_files: bool = False) -> None:
        """Read Howell1; `DataError` if it cannot be, `TaskError` for a model other than "linear".

        `of_files`: nothing is read. Training and held-out people are those that `read_files` is told to read.
        """
        choose_model(self.name, model, ("linear",))
        self.mean_cm, self.deviation_cm = MEAN_CM, DEVIATION_CM
        if of_files:
            super().__init__(_NOBODY, _NOBODY)
            return
        adults = _adults(howell.load(data_dir))
        heights = adults.inputs[~_held_out(adults)]
        self.mean_cm, self.deviation_cm = float(heights.mean()), float(heights.std())
        super().__init__(*self._parts(adults))

    def read_files(self, files: Sequence[Path]) -> int:
        """Train on the adults of these files alone, in the format of Howell1.csv; see `FileTask.read_files`.

        Every fifth of them is held out. Heights are standardised as Howell1's, whichever files these are.
        """
        self._train = self._test = _NOBODY
        self._train, self._test = self._parts(joined([_adults(howell.read(file)) for file in files], files))
        return self.train_samples()

    def _parts(self, adults: Labelled) -> tuple[Labelled, Labelled]:
        """Those to train on and the held-out ones: standardised heights and weights in kg, float32 (n, 1)."""
        held_out = _held_out(adults)
        standardised = ((adults.inputs - self.mean_cm) / self.deviation_cm).astype(np.float32)[:, None]
        target = adults.labels.astype(np.float32)[:, None]
        return Labelled(standardised[~held_out], target[~held_out]), Labelled(standardised[held_out], target[held_out])

    def model(self, seed: int) -> torch.nn.Module:
        """Return `Linear(1, 1)`: float32 `weight` (1, 1), the slope, and `bias` (1,), the intercept."""
        with seeded(seed):
            return torch.nn.Linear(1, 1)


def _adults(people: howell.Howell) -> Labelled:
    """Heights in cm and weights in kg, float64 (n,), of the adults."""
    adult = people.age_years >= ADULT_YEARS
    return Labelled(people.height_cm[adult], people.weight_kg[adult])


def _held_out(adults: Labelled) -> NDArray[np.bool_]:
    held_out: NDArray[np.bool_] = np.arange(len(adults.labels)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
    return held_out
