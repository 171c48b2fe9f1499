"""What the classifiers share: batches of labelled samples, cross-entropy, accuracy in chunks.

The one rule: samples stay NumPy arrays as they were read, one byte a pixel, until a batch of them is asked
for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from leeway.worker.train.tasks.contexts import evaluating, seeded
from leeway.worker.train.tasks.mean import Mean
from leeway.worker.train.tasks.task import StagedTask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from leeway.worker.train.data.source import Labelled


class Classification(StagedTask, ABC):
    """A task whose model gives scores (..., classes) for targets (...,) of class numbers.

    A subclass gives `name`, `build` and `prepare`; one with other scores than one a class gives `criterion`
    and `correct`.
    """

    evaluation_chunk_samples = 1_000
    """Held-out samples that go through the model at once: it bounds the activations' memory."""

    def __init__(self, train: Labelled, test: Labelled) -> None:
        """Keep the samples: labels are integers, the first axes count the samples."""
        self._train = train
        self._test = test

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """Return a new model, drawing on the global generator: it is seeded around the call."""

    @abstractmethod
    def prepare(self, samples: torch.Tensor) -> torch.Tensor:
        """Return what the model takes, from samples as they were read (a copy, already on the device)."""

    def criterion(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy over all targets, a scalar."""
        return functional.cross_entropy(scores.flatten(0, -2), targets.flatten())

    def correct(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return which targets are predicted, bool, of the targets' shape."""
        return scores.argmax(dim=-1) == targets

    def model(self, seed: int) -> torch.nn.Module:
        """Return a freshly initialised model; see `Task.model`."""
        with seeded(seed):
            return self.build()

    def train_samples(self) -> int:
        """Return how many training samples there are."""
        return len(self._train.labels)

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prepared inputs and int64 targets of the training samples at `indices`."""
        return self._tensors(self._train, indices, device)

    def loss(self, model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss over the batch; see `criterion`."""
        scores: torch.Tensor = model(inputs)
        return self.criterion(scores, targets)

    def evaluate(self, model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        """Return mean `loss` and `accuracy` over the held-out samples."""
        mean = Mean()
        with evaluating(model):
            for start in range(0, self.held_out_samples(), self.evaluation_chunk_samples):
                chunk = slice(start, start + self.evaluation_chunk_samples)
                inputs, targets = self._tensors(self._test, chunk, device)
                mean.add(self.figures(model(inputs), targets), len(targets))
        return mean.figures

    def held_out_samples(self) -> int:
        """Return how many held-out samples there are."""
        return len(self._test.labels)

    def held_out(self, indices: NDArray[np.int64], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prepared inputs and int64 targets of the held-out samples at `indices`."""
        return self._tensors(self._test, indices, device)

    def figures(self, scores: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Return mean `loss` and `accuracy` over these targets."""
        correct = self.correct(scores, targets).sum().item() / targets.numel()
        return {"loss": self.criterion(scores, targets).item(), "accuracy": correct}

    def _tensors(
        self, part: Labelled, which: NDArray[Any] | slice, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # torch.tensor copies: what is read from a file may be read-only memory, and a slice is a view.
        inputs = self.prepare(torch.tensor(part.inputs[which], device=device))
        return inputs, torch.tensor(part.labels[which], device=device, dtype=torch.int64)
