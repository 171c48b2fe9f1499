"""MNIST with the two models of the FedAvg paper.

The one rule: layer for layer the paper's, so that the parameter counts are 199,210 and 1,663,370.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-efficient learning of deep networks from
decentralized data", AISTATS 2017 (arXiv 1602.05629), section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from leeway.worker.train.data import mnist
from leeway.worker.train.tasks.classification import Classification
from leeway.worker.train.tasks.task import choose_model

if TYPE_CHECKING:
    from pathlib import Path

# Mean and deviation of the training images' pixels, after division by 255.
_MEAN, _DEVIATION = 0.1307, 0.3081


class Mnist(Classification):
    """`2nn`: a perceptron of 784-200-200-10. `cnn`: 5 x 5 convolutions of 32 and 64, and 512 units."""

    name = "mnist"

    def __init__(self, data_dir: Path, model: str | None = None) -> None:
        """Read the four IDX files; `DataError` if they cannot be, `TaskError` for any other model."""
        self._model_name = choose_model(self.name, model, ("2nn", "cnn"))
        super().__init__(*mnist.load(data_dir))

    def build(self) -> torch.nn.Module:
        """Return the chosen model: float32 (b, 1, 28, 28) -> scores (b, 10)."""
        return _two_hidden_layers() if self._model_name == "2nn" else _convolutional()

    def prepare(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the pixels standardised, with an axis for the one channel."""
        return ((samples.float() / 255 - _MEAN) / _DEVIATION).unsqueeze(1)


def _two_hidden_layers() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(28 * 28, 200),
        torch.nn.ReLU(),
        torch.nn.Linear(200, 200),
        torch.nn.ReLU(),
        torch.nn.Linear(200, 10),
    )


def _convolutional() -> torch.nn.Module:
    # The paper does not say how it pads; "same" is what its parameter count needs (7 * 7 * 64 inputs to the
    # 512 units).
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, kernel_size=5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(32, 64, kernel_size=5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(7 * 7 * 64, 512),
        torch.nn.ReLU(),
        torch.nn.Linear(512, 10),
    )
