"""Keeps NaN and infinity out of the model.

The one rule: the usual, finite update costs one sum over its memory. A sum is finite only if every addend
is, so nothing is looked at more closely unless a sum is not (measured over 100 MiB: 3 ms against 130 for
`isfinite().all()`).
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.tensors import DTYPES
from leeway.ps.arithmetic.bodies import Body

if TYPE_CHECKING:
    from leeway.protocol.frames import Frame


class GuardMode(StrEnum):
    REFUSE = "refuse"
    WARN = "warn"
    OFF = "off"


def guard(frame: Frame, mode: GuardMode) -> str | None:
    """Look at an update as the mode says. Returns the name of the first tensor with a NaN or an infinity,
    or None.

    Raises `WireError` with `NON_FINITE` instead under `REFUSE`. `OFF` does not look.
    """
    name = None if mode is GuardMode.OFF else first_non_finite(frame)
    if name is not None and mode is GuardMode.REFUSE:
        raise WireError(
            Code.NON_FINITE,
            f"tensor {name!r} has a NaN or an infinity; nothing was applied. Send `skip` for this iteration",
            tensor=name,
        )
    return name


def first_non_finite(frame: Frame) -> str | None:
    """The name of the first tensor with a NaN or an infinity, in the order of the body; None if all is
    finite.
    """
    body = Body(frame.body)
    places, begin = frame.places, 0
    while begin < len(places):
        dtype, end = places[begin].spec.dtype, begin + 1
        while end < len(places) and places[end].spec.dtype == dtype:
            end += 1
        if DTYPES[dtype].floating:
            start_bytes = places[begin].offset_bytes
            end_bytes = places[end].offset_bytes if end < len(places) else body.nbytes
            # The padding is zero. A sum of finite values can overflow, so its verdict is a suspicion only.
            if not _finite_sum(body, dtype, start_bytes, end_bytes - start_bytes):
                for place in places[begin:end]:
                    if not _finite(body, dtype, place.offset_bytes, place.spec.nbytes):
                        return place.spec.name
        begin = end
    return None


def _finite_sum(body: Body, dtype: str, start_bytes: int, nbytes: int) -> bool:
    return math.isfinite(body.flat(dtype, start_bytes, nbytes).sum().item())


def _finite(body: Body, dtype: str, start_bytes: int, nbytes: int) -> bool:
    return _finite_sum(body, dtype, start_bytes, nbytes) or bool(
        body.flat(dtype, start_bytes, nbytes).isfinite().all().item()
    )
