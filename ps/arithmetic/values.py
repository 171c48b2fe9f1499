"""The values of one version, and float32 masters of those that are trained in half precision.

The one rule: arithmetic sees `flat` and `tensor`, which are the master where there is one. What is published is the
masters, rounded: an optimizer's small steps add up there (to bfloat16, 1 + 0.001 is 1), and what divides by a small
number does not divide by zero (Micikevicius et al. 2018, arXiv 1710.03740, section 3.1).

Masters lie in memory of their own, in the order of the layout, in twice the bytes. A group without half precision has
none, and nothing is computed anywhere but in the version's own body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leeway.protocol.tensors import Kind, aligned
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.arithmetic.runs import Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from leeway.protocol.spans import Layout, Place, Span
    from leeway.protocol.tensors import TensorSpec

HALVES = ("float16", "bfloat16")

MASTER_DTYPE = "float32"


def has_master(what: TensorSpec | Span) -> bool:
    return what.kind is Kind.TRAINABLE and what.dtype in HALVES


@dataclass(frozen=True, slots=True, eq=False)
class Masters:
    """Where the masters of a layout lie in `nbytes` of memory. `starts`: by the tensor's offset in the layout."""

    layout: Layout
    nbytes: int
    starts: Mapping[int, int]

    @classmethod
    def of(cls, layout: Layout) -> Masters:
        starts: dict[int, int] = {}
        end = 0
        for place in layout.places.values():
            if has_master(place.spec):
                starts[place.offset_bytes] = end
                # With the padding, so that a run of neighbours is one array here too.
                end += 2 * aligned(place.spec.nbytes)
        return cls(layout, end, starts)

    def places(self) -> Iterator[Place]:
        """The tensors that have one."""
        return (place for place in self.layout.places.values() if has_master(place.spec))


class Values:
    """`memory` is the version's body, `wide` that of the masters: both writable."""

    __slots__ = ("_masters", "_wide", "body")

    def __init__(self, masters: Masters, memory: memoryview, wide: memoryview) -> None:
        self.body = Body(memory)
        self._masters = masters
        self._wide = Body(wide)

    def flat(self, run: Run) -> torch.Tensor:
        """The tensors of a run, as arithmetic sees them: flat, with as many elements as its values."""
        if not has_master(run.span):
            return run.within(self.body)
        start_bytes = self._masters.starts[run.start_bytes]
        return self._wide.flat(MASTER_DTYPE, start_bytes, 2 * (run.end_bytes - run.start_bytes))

    def tensor(self, place: Place) -> torch.Tensor:
        """A tensor in its shape, as arithmetic sees it."""
        if not has_master(place.spec):
            return self.body.tensor(place)
        start_bytes = self._masters.starts[place.offset_bytes]
        return self._wide.flat(MASTER_DTYPE, start_bytes, 2 * place.spec.nbytes).view(place.spec.shape)

    def clear(self) -> None:
        """Make it all zero, the padding too."""
        self.body.clear()
        self._wide.clear()

    def copy_masters(self, other: Values) -> None:
        """Take over the masters of values of the same layout."""
        self._wide.copy(other._wide, 0, self._masters.nbytes)

    def widen(self) -> None:
        """Make the masters from what is in the body."""
        for run in self._halves():
            self.flat(run).copy_(run.values)

    def round(self) -> None:
        """Write the masters into the body: to the nearest, and beyond the dtype's largest number infinity."""
        for run in self._halves():
            run.values.copy_(self.flat(run))

    def _halves(self) -> Iterator[Run]:
        for span in self._masters.layout.spans:
            if has_master(span):
                flat = self.body.flat(span.dtype, span.offset_bytes, span.nbytes)
                yield Run(span, 0, len(span.places), flat)
