"""Weight on height of a hundred made-up people: small enough to check every number by hand, and without a file.

The one rule: every model begins at slope 2 and intercept 0, whatever the seed, so that what a page says of it is what
everybody sees (`docs/tutorial/worked-example.md`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from leeway.worker.train.data import heights
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.contexts import seeded
from leeway.worker.train.tasks.line import Line
from leeway.worker.train.tasks.task import choose_model

if TYPE_CHECKING:
    from pathlib import Path

BEGIN_SLOPE, BEGIN_INTERCEPT = 2.0, 0.0


class Heights(Line):
    """weight in kg = slope * height + intercept; height in tens of centimetres above 1.70 m. Two parameters."""

    name = "heights"

    def __init__(self, data_dir: Path, model: str | None = None) -> None:
        """Make the people; `data_dir` is not read. `TaskError` for a model other than "linear"."""
        choose_model(self.name, model, ("linear",))
        self.people = heights.people()
        """The hundred to train on, float64 (100,) each."""
        super().__init__(_labelled(self.people), _labelled(heights.people(crowd=1)))

    def model(self, seed: int) -> torch.nn.Module:
        """Return `Linear(1, 1)`: float32 `weight` (1, 1), the slope, 2; and `bias` (1,), the intercept, 0."""
        with seeded(seed), torch.no_grad():
            line = torch.nn.Linear(1, 1)
            line.weight.fill_(BEGIN_SLOPE)
            line.bias.fill_(BEGIN_INTERCEPT)
        return line


def _labelled(people: heights.People) -> Labelled:
    return Labelled(*(column.astype(np.float32)[:, None] for column in people))
