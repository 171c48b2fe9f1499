"""CIFAR-10 with a convolutional network small enough to train on two cores.

The one rule: the task is called what the data are: "CIFAR-10" for the published batches, "JPEG CIFAR-10" for
the lossy edition (`leeway.worker.train.data.cifar10`).

The network is that of TensorFlow's tutorial "Convolutional Neural Network (CNN)": 3 x 3 convolutions without
padding, of 32, 64 and 64 channels, and 64 units. No augmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from leeway.worker.train.data import cifar10
from leeway.worker.train.tasks.classification import Classification
from leeway.worker.train.tasks.task import choose_model

if TYPE_CHECKING:
    from pathlib import Path

# Mean and deviation of the training images' pixels by channel (red, green, blue), after division by 255.
_MEAN = (0.4917, 0.4826, 0.4472)
_DEVIATION = (0.2452, 0.2427, 0.2606)


class Cifar10(Classification):
    """Three convolutions and two linear layers, 122,570 parameters."""

    def __init__(self, data_dir: Path, model: str | None = None) -> None:
        """Read either edition; `DataError` if neither can be, `TaskError` for a model other than "cnn"."""
        choose_model("cifar10", model, ("cnn",))
        data = cifar10.load(data_dir)
        super().__init__(data.train, data.test)
        self.name = data.edition.value

    def build(self) -> torch.nn.Module:
        """Return the network: float32 (b, 3, 32, 32) -> scores (b, 10)."""
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 32, kernel_size=3),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(32, 64, kernel_size=3),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(64, 64, kernel_size=3),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(4 * 4 * 64, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 10),
        )

    def prepare(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the pixels standardised by channel, the channels before rows and columns."""
        mean, deviation = (samples.new_tensor(values, dtype=torch.float32) for values in (_MEAN, _DEVIATION))
        return ((samples.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)
