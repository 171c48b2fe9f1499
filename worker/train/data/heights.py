"""A hundred made-up people: heights, and weights about a line. No file is read.

The one rule: whole centimetres and kilograms, so the numbers are the same on every machine and can be written down.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from leeway.worker.train.data import draw

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES: Final = 100
SEED: Final = 0
# weight = SLOPE * height + INTERCEPT + noise; height in tens of centimetres above MIDDLE_CM.
SLOPE: Final = 9.0
INTERCEPT: Final = 70.0
MIDDLE_CM: Final = 170
DEVIATION_CM: Final = 10
NOISE_KG: Final = 5.0


class People(NamedTuple):
    """`height` in tens of centimetres above 1.70 m, with one decimal; `weight` in whole kg: float64 (n,)."""

    height: NDArray[np.float64]
    weight: NDArray[np.float64]


def people(crowd: int = 0) -> People:
    """Return the hundred people of a crowd: 0 those to train on, 1 others."""
    height = np.round(_normal(crowd, 0) * DEVIATION_CM) / 10 + 0.0  # no -0
    weight = np.round(SLOPE * height + INTERCEPT + NOISE_KG * _normal(crowd, 1))
    return People(height, weight)


def _normal(*key: int) -> NDArray[np.float64]:
    """Standard normal numbers, from uniform ones by the inverse of the distribution."""
    inverse = NormalDist().inv_cdf
    return np.array([inverse(number) for number in draw.uniform(SAMPLES, SEED, *key).tolist()])
