"""Seeds: what is random in a layer is a function of where and when it is drawn, never of what was drawn before.

The one rule: the generators of torch are put back behind each draw, so that a script's own randomness is the same with
and without a pipeline.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# torch takes seeds below 2**64, and those from 2**63 on also as negative numbers.
_SEED_BYTES = 7


def initial_seed(seed: int, layer: int) -> int:
    """Of the initial values of a layer."""
    return _seed("initial", seed, layer)


def forward_seed(seed: int, rank: str | int, layer: int, iteration: int, micro_batch: int) -> int:
    """Of what a layer draws in the forward pass of a micro-batch: dropout masks, noise."""
    return _seed("forward", seed, rank, layer, iteration, micro_batch)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from this seed within, on the CPU and on `device`; behind it the generators are as before."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def _seed(*facts: str | int) -> int:
    text = "\0".join(map(str, facts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_SEED_BYTES).digest(), "little")
