"""Handwritten digits of 8 x 8 pixels, which come with scikit-learn: the task that needs no files.

The one rule: the split is the same on every machine, drawn once and for all with `leeway.worker.train.data.draw`.

Data: 1,797 samples, the test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI,
1998).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from leeway.errors import DataError
from leeway.worker.train.data import draw
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.classification import Classification
from leeway.worker.train.tasks.task import choose_model

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TEST_SAMPLES = 360
# Mean and deviation of the pixels, which run from 0 to 16.
_MEAN, _DEVIATION = 4.884, 6.017


class Digits(Classification):
    """A perceptron of 64-64-10 with ReLU, 4,810 parameters; 1,437 samples to train on, 360 held out."""

    name = "digits"

    def __init__(self, data_dir: Path, model: str | None = None) -> None:
        """Take scikit-learn's samples; `data_dir` is not read.

        Raises `DataError` where scikit-learn is not installed, `TaskError` for a model other than "mlp".
        """
        choose_model(self.name, model, ("mlp",))
        images, labels = _load()
        everything = Labelled(images.astype(np.float32), labels.astype(np.uint8))
        test, train = np.split(draw.without_replacement(len(labels), 0), [TEST_SAMPLES])
        super().__init__(*(Labelled(*(column[part] for column in everything)) for part in (train, test)))

    def build(self) -> torch.nn.Module:
        """Return the perceptron: float32 (b, 64) -> scores (b, 10)."""
        return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    def prepare(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the pixels standardised."""
        return (samples - _MEAN) / _DEVIATION


def _load() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(1797, 64) pixels and their labels. scikit-learn is an extra: whoever trains something else does not need it."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn, or '.[tasks]' in "
            "your clone of Leeway"
        ) from None
    images, labels = load_digits(return_X_y=True)
    return images, labels
