"""Which samples this worker reads, whoever comes and goes: a sampler for torch's `DataLoader`.

The one rule: where a worker stands among the live ones is asked at each draw, not once. A split that is made right
after `attach` is made when this worker may be the only one there, and it would read everything for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from leeway.protocol.fields import MAX_INTEGER, shown
from leeway.worker import arguments
from leeway.worker.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sized

    from leeway.worker.training import TrainingSession


class Sampler(torch.utils.data.Sampler[int]):
    """Of each epoch's order every `count`-th sample, from `index` on, as these are in `session` at that moment.

    All workers with the same `seed` have the same order, so with the same members they read every sample once an epoch.
    When members change in the middle of one, some are read twice or not at all. `shuffle` False: the order is the data
    set's. Each iteration is the next epoch, unless `set_epoch` says which. What is drawn is counted for the next push,
    unless `session.epochs` counts whole batches. A loader with workers of its own draws some batches ahead.
    """

    def __init__(self, data_source: Sized, session: TrainingSession, *, shuffle: bool = True, seed: int = 0) -> None:
        try:
            self._size = len(data_source)
        except TypeError:
            raise ValueError(
                f"a {type(data_source).__name__} has no length: a sampler is for a data set with samples to choose from"
            ) from None
        if not isinstance(getattr(session, "samples", None), Samples):
            raise ValueError(f"session is {shown(session)}, it must be what leeway.connect returned")
        if not self._size:
            raise ValueError("the data set is empty: there is nothing to draw from")
        self._session = session
        self._shuffle = arguments.boolean("shuffle", shuffle)
        self._seed = arguments.integer("seed", seed, 0, 2**62)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is of this epoch."""
        self._epoch = arguments.integer("epoch", epoch, 0, MAX_INTEGER)

    def __iter__(self) -> Iterator[int]:
        session, order, start = self._session, self._order(self._epoch), 0
        self._epoch += 1
        while start < self._size:
            place, start = start + session.index, start + session.count
            if place < self._size:
                session.samples.drew()
                yield order[place]

    def __len__(self) -> int:
        """How many are left for one worker, as members are now."""
        return max(1, -(-(self._size - self._session.index) // self._session.count))

    def lack(self) -> str:
        """Why there is nothing to draw for this worker, as members are now; empty where there is something."""
        index, count = self._session.index, self._session.count
        if index < self._size:
            return ""
        return (
            f"the size of the data set is {self._size}, and there are {count} workers: none is left for number {index}"
        )

    def _order(self, epoch: int) -> list[int]:
        if not self._shuffle:
            return list(range(self._size))
        generator = torch.Generator().manual_seed((self._seed + epoch * 1_000_003) % 2**63)
        return torch.randperm(self._size, generator=generator).tolist()
