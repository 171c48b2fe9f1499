"""How large an update is, before anything is decided about it.

The one rule: an update is measured as it came. What its sender calls a value is none, and has no norm.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Final

import torch

from leeway.protocol.tensors import Kind
from leeway.ps.arithmetic.bodies import Body

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from leeway.protocol.frames import Frame


# Of what has a NaN or an infinity in it. JSON has a number for it, so that a history can tell what was decided on.
WITHOUT: Final = sys.float_info.max


def norm(frame: Frame, values: Collection[str] = ()) -> float:
    """The Euclidean norm over all trainable tensors but those in `values`; `WITHOUT` where one is not finite."""
    found = math.hypot(*(_norm(values) for values in _tensors(frame, values)))
    return found if math.isfinite(found) else WITHOUT


def _tensors(frame: Frame, values: Collection[str]) -> Iterator[torch.Tensor]:
    body = Body(frame.body)
    for place in frame.places:
        if place.spec.kind is Kind.TRAINABLE and place.spec.name not in values:
            yield body.tensor(place)


def _norm(values: torch.Tensor) -> float:
    wide = torch.promote_types(values.dtype, torch.float32)
    found: float = torch.linalg.vector_norm(values, dtype=wide).item()
    if not math.isfinite(found):
        # The squares of finite float32 values above 1e19 overflow. (In float64 it takes 18 times as long.)
        found = torch.linalg.vector_norm(values, dtype=torch.float64).item()
    return found
