"""A task whose batches are now and then spoilt, as by a broken file: everything in them is NaN."""

import torch

from tests.end_to_end.small import Small

EVERY = 10


class Poisoned(Small):
    """Every tenth batch is not a number."""

    def __init__(self, data_dir, model=None):
        super().__init__(data_dir, model)
        self._batches = 0

    def prepare(self, samples):
        self._batches += 1
        return samples if self._batches % EVERY else torch.full_like(samples, torch.nan)
