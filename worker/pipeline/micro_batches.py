"""A batch in its micro-batches: the samples in order, in pieces whose sizes differ by one at most.

The one rule: samples are counted along the first dimension, of all tensors of a batch alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.worker.pipeline.borders import Activations

# A batch to cut, or the micro-batches themselves.
Batch: TypeAlias = "Activations | list[Activations]"


def micro_batches(batch: Batch, count: int, what: str) -> Sequence[Activations]:
    """`count` micro-batches of `what` (for errors: "inputs"). A list is taken as it is.

    Raises `ValueError` for fewer samples than micro-batches, and for a list of another length.
    """
    if isinstance(batch, list):
        if len(batch) != count:
            raise ValueError(
                f"{what} has {len(batch)} micro-batches, and the pipeline {count}; give as many, or set micro_batches"
            )
        for piece in batch:
            samples_of(piece, what)
        return batch
    total = samples_of(batch, what)
    if total < count:
        raise ValueError(
            f"{what} has {total} samples, which cannot be cut into {count} micro-batches; use at most {total}"
            " micro-batches, or a larger batch"
        )
    sizes = [total // count + (index < total % count) for index in range(count)]
    if isinstance(batch, torch.Tensor):
        return torch.split(batch, sizes)
    return list(zip(*(torch.split(tensor, sizes) for tensor in batch), strict=True))


def joined(pieces: Sequence[Activations]) -> Activations:
    """The reverse: of micro-batches one batch."""
    if isinstance(pieces[0], torch.Tensor):
        return torch.cat([piece for piece in pieces if isinstance(piece, torch.Tensor)])
    return tuple(torch.cat(tensors) for tensors in zip(*pieces, strict=True))


def samples_of(batch: Activations, what: str) -> int:
    """How many there are. Raises `ValueError` for none, and for tensors that do not agree."""
    tensors = batch if isinstance(batch, tuple) else (batch,)
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor) or not tensor.dim():
            raise ValueError(f"{what} must be a tensor whose first dimension is the samples, or a flat tuple of those")
    found = {len(tensor) for tensor in tensors}
    if len(found) != 1 or 0 in found:
        counts = " and ".join(map(str, sorted(found))) or "no"
        raise ValueError(f"{what} has {counts} samples; all of its tensors must have as many, and at least one")
    return found.pop()
