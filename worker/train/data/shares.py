"""Training files that are dealt out: a worker reads its share of them, and holds no sample of the others.

The one rule: whose a file is depends on its place among all files, `index` and `count` alone, so workers that see the
same names agree without talking.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from leeway.errors import DataError
from leeway.worker.train.data.partition import ShuffleAndSplit
from leeway.worker.train.data.source import Labelled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def find(pattern: str, data_dir: Path, workers: int = 1) -> tuple[Path, ...]:
    """Return the files that match `pattern` in the data directory, by name.

    Raises `DataError` if there is none, or fewer than `workers`.
    """
    names = sorted(glob.glob(pattern, root_dir=data_dir, recursive=True))
    files = tuple(path for name in names if (path := data_dir / name).is_file())
    if not files:
        raise DataError(f"--files {pattern!r} matches no file in {data_dir}, the data directory")
    if len(files) < workers:
        raise _too_few(files, workers)
    return files


@dataclass(slots=True)
class FileShares:
    """A `Partition` by files: worker `index` of `count` has `files[index::count]`, and shuffles the samples in there.

    `read` makes the task hold the samples of these files in place of those it held, and returns how many they are. It
    is called for the first batch, and again whenever another share falls to this worker. An epoch is one of the share:
    every sample of it is used once, and a worker with fewer samples begins its next epoch earlier.
    """

    files: tuple[Path, ...]
    read: Callable[[Sequence[Path]], int]
    batch_size: int
    seed: int
    _held: tuple[Path, ...] = field(default=(), init=False, repr=False, compare=False)
    _own: ShuffleAndSplit = field(init=False, repr=False, compare=False)

    def batch(self, iteration: int, index: int, count: int) -> NDArray[np.int64]:
        """Return the batch of `iteration`; see `Partition.batch`. It is never empty.

        Raises `DataError` when there is no file for this worker, or one of its files is not as it should be.
        """
        share = self.files[index::count]
        if not share:
            raise _too_few(self.files, count)
        if share != self._held:
            self._own = ShuffleAndSplit(self.read(share), self.batch_size, self.seed)
            self._held = share
        return self._own.batch(iteration, 0, 1)


def joined(parts: Sequence[Labelled], files: Sequence[Path]) -> Labelled:
    """Return the samples of all parts, of `files`, in that order. Raises `DataError` if they are none at all."""
    samples = Labelled(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    if not len(samples.labels):
        raise DataError(f"{', '.join(map(str, files))}: no samples to train on in there")
    return samples


def _too_few(files: Sequence[Path], workers: int) -> DataError:
    return DataError(
        f"--files are {len(files)}, for {workers} workers: each needs one at least, so split them into more, or start "
        "fewer workers"
    )
