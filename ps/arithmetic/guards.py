"""Keeps NaN and infinity out of the model: out of what an optimizer steps with. Buffers are values, and may mean them.

The one rule: the usual, finite update costs one sum over its memory. A sum is finite only if every addend
is, so nothing is looked at more closely unless a sum is not (measured over 100 MiB: 3 ms against 130 for
`isfinite().all()`).
"""

from __future__ import annotations

import math
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.tensors import Kind, aligned
from leeway.ps.arithmetic.bodies import Body

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from leeway.protocol.frames import Frame
    from leeway.protocol.spans import Place


_HALVES = (torch.float16, torch.bfloat16)


class GuardMode(StrEnum):
    REFUSE = "refuse"
    WARN = "warn"
    OFF = "off"


def guard(frame: Frame, mode: GuardMode, values: Collection[str] = ()) -> str | None:
    """Look at an update as the mode says. Returns the name of the first trainable tensor with a NaN or an infinity,
    or None. Those named in `values` no optimizer touches: what they are is for the sender to say.

    Raises `WireError` with `NON_FINITE` instead under `REFUSE`. `OFF` does not look.
    """
    name = None
    if mode is not GuardMode.OFF:
        found = non_finite(frame.places, Body(frame.body))
        name = next((name for name in found if name not in values), None)
    if name is not None and mode is GuardMode.REFUSE:
        raise WireError(
            Code.NON_FINITE,
            f"tensor {name!r} has a NaN or an infinity; nothing was applied. Send `skip` for this iteration",
            tensor=name,
        )
    return name


def non_finite(places: Sequence[Place], body: Body) -> Iterator[str]:
    """The names of the trainable tensors with a NaN or an infinity, in the order of the body that lies so."""
    for (kind, dtype), members in groupby(places, key=lambda place: (place.spec.kind, place.spec.dtype)):
        if kind is not Kind.TRAINABLE:
            continue
        run = list(members)
        # The padding is zero. A sum of finite values can overflow, so its verdict is a suspicion only.
        if not _finite_sum(body.flat(dtype, run[0].offset_bytes, _end(run[-1]) - run[0].offset_bytes)):
            for place in run:
                if not _finite(body.tensor(place)):
                    yield place.spec.name


def _end(place: Place) -> int:
    return aligned(place.end_bytes)


def _finite_sum(values: torch.Tensor) -> bool:
    if values.dtype in _HALVES and values.numel():
        # The sum of a healthy gradient is often beyond what half precision can hold; both of these take a NaN over.
        return all(math.isfinite(edge.item()) for edge in torch.aminmax(values))
    return math.isfinite(values.sum().item())


def _finite(values: torch.Tensor) -> bool:
    return _finite_sum(values) or bool(values.isfinite().all().item())
