"""Tasks of one's own, quick to start: which half of a space drawn points are in. No files, no scikit-learn."""

import numpy as np
import torch

from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.classification import Classification
from leeway.worker.train.tasks.mnist import Mnist
from leeway.worker.train.tasks.shakespeare import Shakespeare


class Small(Classification):
    """64 numbers to two classes by a perceptron of 8 units. The model "broken" fails at its third batch."""

    name = "small"

    def __init__(self, data_dir, model=None):
        self._left = 3 if model == "broken" else None
        points = np.random.default_rng(0).normal(size=(600, 64)).astype(np.float32)
        labels = (points.sum(axis=1) > 0).astype(np.uint8)
        super().__init__(Labelled(points[:500], labels[:500]), Labelled(points[500:], labels[500:]))

    def build(self):
        return torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))

    def prepare(self, samples):
        if self._left is not None:
            self._left -= 1
            if not self._left:
                raise RuntimeError("this worker's own mistake")
        return samples


class Convolutional(Small):
    """The same numbers as images of 8 x 8 pixels."""

    def build(self):
        return torch.nn.Sequential(
            torch.nn.Unflatten(1, (1, 8, 8)),
            torch.nn.Conv2d(1, 8, kernel_size=3),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(8 * 3 * 3, 2),
        )


class Normalized(Small):
    """The same with BatchNorm, and an evaluation that draws random numbers."""

    def build(self):
        return torch.nn.Sequential(
            torch.nn.Linear(64, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.ReLU(),
            torch.nn.Linear(8, 2),
        )

    def evaluate(self, model, device):
        torch.rand(3)
        return super().evaluate(model, device)


class Images(Mnist):
    """MNIST with few held-out images: to evaluate all of them takes longer than a test should."""

    def __init__(self, data_dir, model=None):
        super().__init__(data_dir, model or "cnn")
        self._test = Labelled(*(column[:50] for column in self._test))


class Plays(Shakespeare):
    """The character model, likewise."""

    def __init__(self, data_dir, model=None):
        super().__init__(data_dir, model)
        self._test = Labelled(*(column[:10] for column in self._test))


class Whole(Small):
    """A model that says nothing of its parts."""

    def build(self):
        return torch.nn.Bilinear(64, 64, 2)


class Unsaid(Small):
    """A task without what stages take."""

    criterion = None
