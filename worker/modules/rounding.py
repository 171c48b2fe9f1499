"""What of a local step is lost when it travels as a delta, for a worker that is alone.

The one rule: the server's `pulled - delta` may differ from the local value in the last bit, where the difference of the
two has more bits than its dtype. A worker that finds exactly that in what it pulls next holds on to its own value: so a
script with one worker computes what it would without a server, and what the server has stays within a rounding of it.

Where both lie within a factor of two, and wherever the step is smaller than what it is subtracted from, nothing is lost
(Sterbenz 1974; Dekker 1971, theorem 4.7). What remains is about one element in a thousand.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class _Lost(NamedTuple):
    """Of one tensor, flat: where, the value here, and the value that the server makes of it."""

    at: torch.Tensor
    here: torch.Tensor
    there: torch.Tensor


class Rounding:
    def __init__(self) -> None:
        self._lost: dict[str, _Lost] = {}

    def forget(self) -> None:
        self._lost = {}

    def look(self, key: str, pulled: torch.Tensor, local: torch.Tensor, delta: torch.Tensor) -> None:
        """`delta` is pushed for a step from `pulled` to `local`, all of one shape and dtype."""
        there = (pulled - delta).flatten()
        here = local.flatten()
        at = (there != here).nonzero().flatten()
        if len(at):
            self._lost[key] = _Lost(at, here[at].clone(), there[at])

    def keep(self, key: str, tensor: torch.Tensor) -> None:
        """`tensor` holds what was pulled: put what was lost back, where nobody else has changed it."""
        if lost := self._lost.pop(key, None):
            flat = tensor.view(-1) if tensor.is_contiguous() else tensor.flatten()
            unchanged = flat[lost.at] == lost.there
            flat[lost.at] = torch.where(unchanged, lost.here, flat[lost.at])
            if not tensor.is_contiguous():
                tensor.copy_(flat.view(tensor.shape))
