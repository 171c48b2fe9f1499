"""Random choices of sample indices that every machine makes alike.

The one rule: a draw is a pure function of (seed, key), also across versions of NumPy. NumPy fixes the bits
of its bit generators and of SeedSequence for ever, but not what `Generator` makes of them (NEP 19), so only
raw bits are used here. Workers that split one permutation between them depend on it: two that disagree would
read a sample twice and another never.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def without_replacement(samples: int, seed: int, *key: int) -> NDArray[np.int64]:
    """Return a permutation of 0 .. samples - 1, int64 (samples,), chosen by `seed` and `key` (all >= 0)."""
    # Sorting random numbers; a tie among 64-bit numbers hardly occurs, and a stable sort decides it alike
    # everywhere.
    return np.argsort(_bits(samples, seed, key), kind="stable").astype(np.int64, copy=False)


def with_replacement(samples: int, size: int, seed: int, *key: int) -> NDArray[np.int64]:
    """Return `size` independent choices from 0 .. samples - 1, int64 (size,); `seed` and `key` as above."""
    # The remainder favours small indices by less than samples / 2**64, which no experiment can see.
    return (_bits(size, seed, key) % np.uint64(samples)).astype(np.int64)


def uniform(size: int, seed: int, *key: int) -> NDArray[np.float64]:
    """Return `size` independent numbers above 0 and below 1, float64 (size,); `seed` and `key` as above."""
    return ((_bits(size, seed, key) >> np.uint64(12)).astype(np.float64) + 0.5) / 2**52


def key_of(text: str) -> int:
    """Return a number that stands for `text` in a key, the same in every process (unlike `hash`)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _bits(size: int, seed: int, key: tuple[int, ...]) -> NDArray[np.uint64]:
    return np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)).random_raw(size)
