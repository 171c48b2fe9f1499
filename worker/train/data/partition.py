"""Which samples a worker reads in which iteration: all the randomness of training batches.

The one rule: a batch is a pure function of the partition's parameters and the arguments of `batch`. Nothing
is remembered from call to call but a permutation that could be made again, so a replayed iteration reads the
same data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from leeway.worker.train.data import draw

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# First word of a draw's key, so that no two uses ever draw the same bits.
_SHUFFLE, _POOL, _PASS = range(3)


class Partition(Protocol):
    """Deals the samples out to the workers."""

    def batch(self, iteration: int, index: int, count: int) -> NDArray[np.int64]:
        """Return the sample indices of one worker's batch: int64 (b,) with 0 <= b <= batch size.

        Args:
            iteration: The worker's clock, >= 0.
            index: The worker's place among the live workers, 0 <= index < count.
            count: The number of live workers.

        An empty batch means that there is nothing left to read in this iteration: send `skip`.
        """
        ...


@dataclass(slots=True)
class ShuffleAndSplit:
    """Each epoch permutes all samples and deals them out: every sample is used once an epoch.

    An epoch takes L = ceil(samples / (batch_size * count)) iterations; its permutation depends on (seed,
    epoch) alone, so workers that were given the same seed agree on it without talking. Worker `index` reads
    `permutation[index::count]`, whose length differs by at most one between the workers. The last batch of
    an epoch may be short, and is empty for some when fewer samples than workers are left.

    A change of membership cuts anew at once: the next call computes epoch, share and place from the new
    count. The epoch in which that happens reads some samples twice and some not at all; the ones after it
    are whole again.
    """

    samples: int
    batch_size: int
    seed: int
    _epoch: int = field(default=-1, init=False, repr=False, compare=False)
    _permutation: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse sizes below 1 and seeds below 0 with `ValueError`."""
        _check_sizes(self.samples, self.batch_size, self.seed)

    def iterations_per_epoch(self, count: int) -> int:
        """Return L, the iterations that `count` workers need to read every sample once."""
        return math.ceil(self.samples / (self.batch_size * count))

    def batch(self, iteration: int, index: int, count: int) -> NDArray[np.int64]:
        """Return the batch of `iteration`; see `Partition.batch`."""
        _check_place(iteration, index, count)
        epoch, position = divmod(iteration, self.iterations_per_epoch(count))
        if epoch != self._epoch:
            self._permutation = draw.without_replacement(self.samples, self.seed, _SHUFFLE, epoch)
            self._epoch = epoch
        # Batch `position` of every share, side by side: the share's slice without making the share.
        dealt = self.batch_size * count
        return self._permutation[position * dealt : (position + 1) * dealt][index::count].copy()


@dataclass(slots=True)
class RandomSampling:
    """Each worker owns a pool drawn with replacement from all samples, and passes through it again and again.

    The pool has max(1, round(weight * samples)) entries, so a worker of weight 0.5 reads half as many
    different samples before it repeats itself as one of weight 1; it depends on (seed, rank) alone, and its
    order on (seed, rank, pass). Shares are independent and identically distributed; some samples may be in
    none. Membership does not matter: `index` and `count` are checked and otherwise ignored.
    """

    samples: int
    batch_size: int
    seed: int
    rank: str
    weight: float = 1.0
    _rank_key: int = field(init=False, repr=False, compare=False)
    _pool: NDArray[np.int64] = field(init=False, repr=False, compare=False)
    _pass: int = field(default=-1, init=False, repr=False, compare=False)
    _ordered: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Draw the pool; refuse bad sizes, seeds and weights with `ValueError`."""
        _check_sizes(self.samples, self.batch_size, self.seed)
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight is {self.weight}; a worker's weight is a finite number above 0 (1 = average)")
        self._rank_key = draw.key_of(self.rank)
        size = max(1, round(self.weight * self.samples))
        self._pool = draw.with_replacement(self.samples, size, self.seed, _POOL, self._rank_key)

    @property
    def pool(self) -> NDArray[np.int64]:
        """The indices this worker reads from, int64 (max(1, round(weight * samples)),), as drawn; a copy."""
        return self._pool.copy()

    def batch(self, iteration: int, index: int, count: int) -> NDArray[np.int64]:
        """Return the batch of `iteration`; see `Partition.batch`. It is never empty."""
        _check_place(iteration, index, count)
        number, position = divmod(iteration, math.ceil(len(self._pool) / self.batch_size))
        if number != self._pass:
            order = draw.without_replacement(len(self._pool), self.seed, _PASS, self._rank_key, number)
            self._ordered = self._pool[order]
            self._pass = number
        return self._ordered[position * self.batch_size : (position + 1) * self.batch_size].copy()


def _check_sizes(samples: int, batch_size: int, seed: int) -> None:
    if samples < 1:
        raise ValueError(f"there are {samples} samples; training needs at least 1")
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}; it must be at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more")


def _check_place(iteration: int, index: int, count: int) -> None:
    if iteration < 0:
        raise ValueError(f"iteration is {iteration}; iterations count from 0")
    if not 0 <= index < count:
        raise ValueError(f"index is {index} among {count} workers; it must be 0 to {count - 1}")
