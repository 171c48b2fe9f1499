"""Whether an update's tensors are the group's.

The one rule: a frame that passes here can be computed on without another look at names, shapes or dtypes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol.codes import Code

if TYPE_CHECKING:
    from leeway.protocol.frames import Frame
    from leeway.protocol.spans import Layout


def check(layout: Layout, frame: Frame) -> None:
    """Raise `WireError` with `UNKNOWN_TENSOR` or `WRONG_TENSOR`, naming the tensor, what was expected and
    what came.

    An update may carry any part of the group's tensors, in any order.
    """
    if frame.matches(layout):
        return
    for spec in frame.specs:
        place = layout.places.get(spec.name)
        if place is None:
            raise WireError(
                Code.UNKNOWN_TENSOR,
                f"the group has no tensor {spec.name!r}; offer its initial value first, or leave it out",
                tensor=spec.name,
                got=f"{spec} {spec.kind}",
            )
        if place.spec != spec:
            expected, got = f"{place.spec} {place.spec.kind}", f"{spec} {spec.kind}"
            raise WireError(
                Code.WRONG_TENSOR,
                f"tensor {spec.name!r} does not fit: expected {expected}, got {got}",
                tensor=spec.name,
                expected=expected,
                got=got,
            )
