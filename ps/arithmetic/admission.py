"""Whether an update's tensors are the group's.

The one rule: a frame that passes here can be computed on without another look at names, shapes or dtypes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.tensors import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.protocol.frames import Frame
    from leeway.protocol.spans import Layout


def check(layout: Layout, frame: Frame, values: Sequence[str] = ()) -> None:
    """Raise `WireError` with `UNKNOWN_TENSOR` or `WRONG_TENSOR`, naming the tensor, what was expected and
    what came. `values`: those of the frame's that are to be values, which only a trainable one has to be told.

    An update may carry any part of the group's tensors, in any order.
    """
    if not frame.matches(layout):
        _check_specs(layout, frame)
    for name in values:
        spec = layout.places[name].spec
        if spec.kind is not Kind.TRAINABLE:
            raise WireError(
                Code.WRONG_TENSOR,
                f"tensor {name!r} has kind {spec.kind}, which is a value in every push; leave it out of 'values'",
                tensor=name,
                expected=str(Kind.TRAINABLE),
                got=str(spec.kind),
            )


def _check_specs(layout: Layout, frame: Frame) -> None:
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
