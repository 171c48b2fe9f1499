"""The next character of Shakespeare's plays, with the recurrent network of the FedAvg paper.

The one rule: a sample is 80 characters and, as targets, the same moved on by one; samples do not overlap,
and the network begins each with a zero state.

McMahan et al., AISTATS 2017 (arXiv 1602.05629), section 3: characters embedded in 8 dimensions, two LSTM
layers of 256, unrolled over 80 characters. The paper's text and vocabulary are larger than Tiny
Shakespeare's 65 characters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from leeway.worker.train.data import shakespeare
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.classification import Classification
from leeway.worker.train.tasks.task import choose_model

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SEQUENCE_CHARACTERS = 80
_EMBEDDING = 8
_HIDDEN = 256


class _States(torch.nn.LSTM):
    """An LSTM that gives its output alone, so that it can stand in a row of blocks."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # that is what it is for
        output, _ = super().forward(inputs)
        return output


class CharacterLstm(torch.nn.Module):
    """int64 ids (b, t) -> scores (b, t, vocabulary) for what follows each; 815,945 parameters for 65."""

    pipeline_blocks = ("embedding", "lstm", "head")

    def __init__(self, vocabulary: int) -> None:
        """Make the layers for ids 0 .. vocabulary - 1."""
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, _EMBEDDING)
        self.lstm = _States(_EMBEDDING, _HIDDEN, num_layers=2, batch_first=True)
        self.head = torch.nn.Linear(_HIDDEN, vocabulary)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the scores; the state begins at zero."""
        scores: torch.Tensor = self.head(self.lstm(self.embedding(ids)))
        return scores


class Shakespeare(Classification):
    """12,548 sequences to train on, 1,394 held out; accuracy and loss are per character."""

    name = "shakespeare"
    evaluation_chunk_samples = 200

    def __init__(self, data_dir: Path, model: str | None = None) -> None:
        """Read the text; `DataError` if it cannot be, `TaskError` for a model other than "lstm"."""
        choose_model(self.name, model, ("lstm",))
        text = shakespeare.load(data_dir)
        super().__init__(_sequences(text.train), _sequences(text.test))

    def build(self) -> torch.nn.Module:
        """Return the network."""
        return CharacterLstm(shakespeare.VOCABULARY)

    def prepare(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the ids as int64."""
        return samples.long()


def _sequences(ids: NDArray[np.uint8]) -> Labelled:
    """Cut ids (n,) into inputs and targets of shape ((n - 1) // 80, 80); a shorter rest is left out."""
    count = (len(ids) - 1) // SEQUENCE_CHARACTERS
    used = count * SEQUENCE_CHARACTERS
    shape = (count, SEQUENCE_CHARACTERS)
    return Labelled(ids[:used].reshape(shape), ids[1 : used + 1].reshape(shape))
