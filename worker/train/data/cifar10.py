"""CIFAR-10: 50,000 and 10,000 colour photographs of 32 x 32 pixels in ten classes.

Two editions are read: the published binary batches, and `cifar10-dct.npz`, the quantised DCT coefficients of
JPEG copies. The one rule: the lossy edition is never passed off as the published one; it calls itself "JPEG
CIFAR-10" (about 30.5 dB PSNR against the originals), and accuracies on it do not belong beside published
ones.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import zipfile
import zlib
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from leeway.worker.train.data import cifar10_jpeg
from leeway.worker.train.data.source import Labelled, Source

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SOURCE = Source(title="CIFAR-10", folder="cifar10", name="cifar10")
TRAIN_SAMPLES = 50_000
TEST_SAMPLES = 10_000
BATCH_SAMPLES = 10_000
SIDE_PIXELS = 32
CHANNELS = 3
CLASSES = 10

_IMAGE_BYTES = CHANNELS * SIDE_PIXELS * SIDE_PIXELS
_RECORD_BYTES = 1 + _IMAGE_BYTES
_TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST_FILE = "test_batch.bin"
_ARCHIVE = "cifar10-dct.npz"


class Edition(StrEnum):
    """Which CIFAR-10 was read; the value is the name to print."""

    PUBLISHED = "CIFAR-10"
    JPEG = "JPEG CIFAR-10"


class Cifar10(NamedTuple):
    """Both parts: inputs uint8 (n, 32, 32, 3) RGB, labels uint8 (n,), 0 to 9."""

    train: Labelled
    test: Labelled
    edition: Edition


def load(data_dir: Path) -> Cifar10:
    """Return CIFAR-10 from `data_dir/cifar10/`, the published batches before the JPEG edition.

    The JPEG edition is sorted by class, and unpacking it takes a few seconds.

    Raises:
        DataError: neither edition is there, or a file is truncated, too long, or holds a label above 9.
    """
    folder = data_dir / SOURCE.folder
    batches = folder / "cifar-10-batches-bin"
    for place in (batches, folder):
        if (place / _TRAIN_FILES[0]).is_file():
            parts = [read_batch(place / name, BATCH_SAMPLES) for name in _TRAIN_FILES]
            train = Labelled(
                np.concatenate([part.inputs for part in parts]),
                np.concatenate([part.labels for part in parts]),
            )
            return Cifar10(train, read_batch(place / _TEST_FILE, BATCH_SAMPLES), Edition.PUBLISHED)
    archive = folder / _ARCHIVE
    if not archive.is_file():
        raise SOURCE.missing(batches / _TRAIN_FILES[0], folder / _TRAIN_FILES[0], archive)
    everything = read_archive(archive, TRAIN_SAMPLES + TEST_SAMPLES)
    train = Labelled(everything.inputs[:TRAIN_SAMPLES], everything.labels[:TRAIN_SAMPLES])
    test = Labelled(everything.inputs[TRAIN_SAMPLES:], everything.labels[TRAIN_SAMPLES:])
    return Cifar10(train, test, Edition.JPEG)


def read_batch(path: Path, samples: int) -> Labelled:
    """Return one published batch: records of a label byte and 3 x 32 x 32 bytes, planes red, green, blue.

    Raises:
        DataError: the file is missing, of another length, or holds a label above 9.
    """
    size_bytes = SOURCE.require(path).stat().st_size
    if size_bytes != samples * _RECORD_BYTES:
        raise SOURCE.malformed(
            path,
            f"has {size_bytes} bytes, not {samples * _RECORD_BYTES} ({samples} records of {_RECORD_BYTES})",
        )
    records = np.fromfile(path, dtype=np.uint8).reshape(samples, _RECORD_BYTES)
    planes = records[:, 1:].reshape(samples, CHANNELS, SIDE_PIXELS, SIDE_PIXELS)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return Labelled(images, _checked_labels(path, records[:, 0].copy()))


def read_archive(path: Path, samples: int) -> Labelled:
    """Return all images and labels of a `cifar10-dct.npz`, train before test, decoded.

    The archive holds `coef` int8 (64, 24, n), `labels` uint8 (n,), and the coefficients outside int8 as
    `big_index` int32 (k, 3) and `big_value` int16 (k,).

    Raises:
        DataError: the file is missing or no such archive, an array has another shape or type, or a label is
            above 9.
    """
    wanted: dict[str, tuple[tuple[int | None, ...], type[np.generic]]] = {
        "coef": ((64, cifar10_jpeg.BLOCKS, samples), np.int8),
        "labels": ((samples,), np.uint8),
        "big_index": ((None, 3), np.int32),
        "big_value": ((None,), np.int16),
    }
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with SOURCE.require(path).open("rb") as file, zipfile.ZipFile(file) as archive:
            for name in wanted:
                with archive.open(f"{name}.npy") as member:
                    arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise SOURCE.malformed(path, f"is not a complete {_ARCHIVE} ({error})") from error
    except ValueError as error:
        raise SOURCE.malformed(path, f"holds an array that cannot be read ({error})") from error
    for name, (shape, dtype) in wanted.items():
        array = arrays[name]
        fits = len(array.shape) == len(shape) and all(
            size in (None, got) for size, got in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype != dtype:
            expected = f"{np.dtype(dtype)} {tuple('any' if size is None else size for size in shape)}"
            raise SOURCE.malformed(path, f"holds {name!r} as {array.dtype} {array.shape}, not {expected}")
    index, value = arrays["big_index"], arrays["big_value"]
    if len(index) != len(value) or (index < 0).any() or (index >= arrays["coef"].shape).any():
        raise SOURCE.malformed(path, "lists coefficients in 'big_index' that lie outside 'coef'")
    labels = _checked_labels(path, arrays["labels"])
    return Labelled(cifar10_jpeg.decode(arrays["coef"], index, value), labels)


def _checked_labels(path: Path, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if labels.max() >= CLASSES:
        raise SOURCE.malformed(path, f"holds the label {labels.max()}; labels are 0 to {CLASSES - 1}")
    return labels
