"""The two contexts in which a task touches a model: while it is made, and while it is evaluated.

The one rule: both leave the surroundings as they found them, whatever happens inside.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the CPU's random numbers from `seed` inside; outside, they go on as if nothing had been."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would seed the accelerators' generators too, which are not restored
        # here.
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation and inference mode inside; afterwards each submodule has the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training
