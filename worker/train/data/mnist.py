"""MNIST from the four original IDX files: 60,000 and 10,000 handwritten digits of 28 x 28 pixels.

The one rule: the shape is known beforehand, so a file's header is compared and never believed, and no more
than the expected bytes is ever unpacked.

LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86(11),
1998.
IDX: two zero bytes, a type code (8 = unsigned byte), the number of axes, each axis as big-endian uint32,
then the bytes.
"""

from __future__ import annotations

import gzip
import math
import zlib
from typing import TYPE_CHECKING

import numpy as np

from leeway.worker.train.data.source import Labelled, Source

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SOURCE = Source(title="MNIST", folder="mnist", name="mnist")
TRAIN_SAMPLES = 60_000
TEST_SAMPLES = 10_000
SIDE_PIXELS = 28
CLASSES = 10

_UNSIGNED_BYTE = 8


def load(data_dir: Path) -> tuple[Labelled, Labelled]:
    """Return (train, test) from `data_dir/mnist/`.

    Inputs are uint8 (n, 28, 28), 0 = background; labels are uint8 (n,), 0 to 9.

    Raises:
        DataError: a file is missing, truncated, of another shape, or holds a label above 9.
    """
    folder = data_dir / SOURCE.folder
    return _part(folder, "train", TRAIN_SAMPLES), _part(folder, "t10k", TEST_SAMPLES)


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the uint8 array of `shape` that the gzipped IDX file at `path` holds.

    Raises:
        DataError: the file is missing, is not gzip, is no IDX file of unsigned bytes, or has another shape
            or length.
    """
    SOURCE.require(path)
    header_bytes = 4 + 4 * len(shape)
    body_bytes = math.prod(shape)
    try:
        with gzip.open(path) as file:
            header = file.read(header_bytes)
            body = file.read(body_bytes + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SOURCE.malformed(path, f"is not a complete gzip file ({error})") from error
    magic = bytes((0, 0, _UNSIGNED_BYTE, len(shape)))
    if header[:4] != magic:
        raise SOURCE.malformed(path, f"begins with {header[:4].hex()!r}, not with the IDX magic {magic.hex()!r}")
    found = tuple(int(size) for size in np.frombuffer(header[4 : len(header) // 4 * 4], dtype=">u4"))
    if found != shape:
        raise SOURCE.malformed(path, f"holds an array of shape {found}, not {shape}")
    if len(body) != body_bytes:
        amount = "more than" if len(body) > body_bytes else f"{len(body)} of"
        raise SOURCE.malformed(path, f"holds {amount} the {body_bytes} bytes that its header announces")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def read_labels(path: Path, samples: int) -> NDArray[np.uint8]:
    """Return the uint8 (samples,) labels at `path`, each 0 to 9; `DataError` as for `read_idx`."""
    labels = read_idx(path, (samples,))
    if labels.max() >= CLASSES:
        raise SOURCE.malformed(path, f"holds the label {labels.max()}; labels are 0 to {CLASSES - 1}")
    return labels


def _part(folder: Path, prefix: str, samples: int) -> Labelled:
    return Labelled(
        read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", (samples, SIDE_PIXELS, SIDE_PIXELS)),
        read_labels(folder / f"{prefix}-labels-idx1-ubyte.gz", samples),
    )
