"""Logistic regression on a9a: is somebody's yearly income above 50,000 dollars? A convex task.

The one rule: one score a sample, the log-odds of the positive class, so the model is the textbook's and its
124 parameters have one best answer under weight decay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from leeway.worker.train.data import libsvm
from leeway.worker.train.data.shares import joined
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.classification import Classification
from leeway.worker.train.tasks.task import choose_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NO_ROWS = Labelled(np.zeros((0, libsvm.A9A_FEATURES), np.float32), np.zeros(0, np.uint8))


class A9a(Classification):
    """123 binary features to one log-odds. Always saying no is right for 0.759 (train), 0.764 (test)."""

    name = "a9a"

    def __init__(self, data_dir: Path, model: str | None = None, *, of_files: bool = False) -> None:
        """Read both files; `DataError` if they cannot be, `TaskError` for a model other than "logistic".

        `of_files`: only the held-out one. The training rows are those that `read_files` is told to read.
        """
        choose_model(self.name, model, ("logistic",))
        if of_files:
            super().__init__(_NO_ROWS, libsvm.load_a9a_held_out(data_dir))
        else:
            super().__init__(*libsvm.load_a9a(data_dir))

    def read_files(self, files: Sequence[Path]) -> int:
        """Train on the rows of these files alone, in LIBSVM's format as a9a; see `FileTask.read_files`."""
        self._train = _NO_ROWS
        self._train = joined([libsvm.read_a9a(file) for file in files], files)
        return self.train_samples()

    def build(self) -> torch.nn.Module:
        """Return `Linear(123, 1)`: float32 (b, 123) -> log-odds (b, 1)."""
        return torch.nn.Linear(libsvm.A9A_FEATURES, 1)

    def prepare(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the features as they are, 0 or 1."""
        return samples

    def criterion(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean logistic loss."""
        return functional.binary_cross_entropy_with_logits(scores.squeeze(-1), targets.float())

    def correct(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return which samples are on the right side of even odds."""
        return (scores.squeeze(-1) > 0) == targets.bool()
