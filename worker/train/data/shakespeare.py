"""Tiny Shakespeare: 1,115,394 characters of the plays, as ids of its 65 distinct characters.

The one rule: the split is by place, the first nine tenths to train on and the rest to test on, so that no
test sentence is ever seen in training.

Collected by Andrej Karpathy for char-rnn (2015); the text is in the public domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from leeway.worker.train.data.source import Source

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SOURCE = Source(title="Tiny Shakespeare", folder="shakespeare", name="shakespeare")
CHARACTERS = 1_115_394
VOCABULARY = 65
TRAIN_CHARACTERS = CHARACTERS * 9 // 10


@dataclass(frozen=True, slots=True)
class Shakespeare:
    """Both parts as uint8 ids, of shapes (1003854,) and (111540,); id i stands for `vocabulary[i]`."""

    train: NDArray[np.uint8]
    test: NDArray[np.uint8]
    vocabulary: str

    def text(self, ids: NDArray[np.uint8]) -> str:
        """Return the characters that `ids` stand for."""
        return "".join(self.vocabulary[index] for index in ids)


def load(data_dir: Path) -> Shakespeare:
    """Return the text of `data_dir/shakespeare/tinyshakespeare.txt`; the vocabulary is in code point order.

    Raises:
        DataError: the file is missing, or has another number of bytes or of distinct characters.
    """
    path = SOURCE.require(data_dir / SOURCE.folder / "tinyshakespeare.txt")
    size_bytes = path.stat().st_size
    if size_bytes != CHARACTERS:
        raise SOURCE.malformed(path, f"has {size_bytes} bytes, not {CHARACTERS}")
    # The text is ASCII: one byte is one character.
    alphabet, ids = np.unique(np.fromfile(path, dtype=np.uint8), return_inverse=True)
    if len(alphabet) != VOCABULARY or alphabet.max() > 127:
        raise SOURCE.malformed(path, f"has {len(alphabet)} distinct characters, not {VOCABULARY} of ASCII")
    train, test = np.split(ids.astype(np.uint8), [TRAIN_CHARACTERS])
    return Shakespeare(train, test, alphabet.tobytes().decode("ascii"))
