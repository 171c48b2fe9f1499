"""Which tensors of an update can be computed on together: runs of neighbours, as long as they come.

The one rule: whatever part of the model a body carries, in whatever order, arithmetic sees flat arrays that
lie in the body as they do in the group's layout. A full update is one run per span; one without the frozen
parameters is cut only where they are missing.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leeway.protocol.tensors import DTYPES, Kind
from leeway.ps.arithmetic.bodies import Body

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    import torch

    from leeway.protocol.frames import Frame
    from leeway.protocol.spans import Layout, Place, Span


def _edge_bytes(span: Span, index: int) -> int:
    """Where tensor `index` of a span begins; for the number of its tensors, where the span ends."""
    return span.places[index].offset_bytes if index < len(span.places) else span.end_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Values for `span.places[first:stop]` of the group's layout.

    `values` is a flat array of the span's dtype, with the padding, wherever it lies in memory; of float32 where
    something was computed from half precision.
    """

    span: Span
    first: int
    stop: int
    values: torch.Tensor

    @property
    def places(self) -> tuple[Place, ...]:
        return self.span.places[self.first : self.stop]

    @property
    def start_bytes(self) -> int:
        return _edge_bytes(self.span, self.first)

    @property
    def end_bytes(self) -> int:
        return _edge_bytes(self.span, self.stop)

    @property
    def trainable(self) -> bool:
        return self.span.kind is Kind.TRAINABLE

    def part(self, first: int, stop: int) -> Run:
        """The sub-run of `span.places[first:stop]`."""
        if (first, stop) == (self.first, self.stop):
            return self
        itemsize = DTYPES[self.span.dtype].itemsize
        start = (_edge_bytes(self.span, first) - self.start_bytes) // itemsize
        end = (_edge_bytes(self.span, stop) - self.start_bytes) // itemsize
        return Run(self.span, first, stop, self.values[start:end])

    def within(self, body: Body) -> torch.Tensor:
        """The same tensors in a body that lies as the layout says: flat, as long as `values`."""
        return body.flat(self.span.dtype, self.start_bytes, self.end_bytes - self.start_bytes)

    def tensors(self) -> Iterator[tuple[Place, torch.Tensor]]:
        """Each tensor with its place in the layout, in its shape, without padding."""
        itemsize = DTYPES[self.span.dtype].itemsize
        start_bytes = self.start_bytes
        for place in self.places:
            offset = (place.offset_bytes - start_bytes) // itemsize
            yield place, self.values.narrow(0, offset, place.spec.elements).view(place.spec.shape)


class Chart:
    """Finds the runs of a frame in one layout."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._positions = {
            place.spec.name: (span, index) for span in layout.spans for index, place in enumerate(span.places)
        }

    def runs(self, frames: Iterable[Frame]) -> list[Run]:
        """The runs of an update's frames, in the order of the layout.

        The frames were checked against the layout, and no two have a tensor in common.
        """
        runs = [run for frame in frames for run in self._of_frame(frame)]
        runs.sort(key=lambda run: (run.span.offset_bytes, run.first))
        return runs

    def whole(self, body: Body) -> list[Run]:
        """The runs of a body that lies as the layout says: its spans."""
        return [
            Run(span, 0, len(span.places), body.flat(span.dtype, span.offset_bytes, span.nbytes))
            for span in self.layout.spans
        ]

    def _of_frame(self, frame: Frame) -> Iterator[Run]:
        body = Body(frame.body)
        if frame.matches(self.layout):
            yield from self.whole(body)
            return
        places, count = frame.places, len(frame.places)
        begin = 0
        while begin < count:
            span, first = self._positions[places[begin].spec.name]
            end = begin + 1
            # A frame's tensors follow one another without gaps, so neighbours in the layout are neighbours
            # here.
            while end < count and self._positions[places[end].spec.name] == (span, first + end - begin):
                end += 1
            start_bytes = places[begin].offset_bytes
            end_bytes = places[end].offset_bytes if end < count else body.nbytes
            values = body.flat(span.dtype, start_bytes, end_bytes - start_bytes)
            yield Run(span, first, first + end - begin, values)
            begin = end


def split(runs: Iterable[Run], names: Collection[str]) -> tuple[list[Run], list[Run]]:
    """The runs without the tensors of these names, and the runs of those alone; both in the order of the layout."""
    others: list[Run] = []
    named: list[Run] = []
    for run in runs:
        first = run.first
        while first < run.stop:
            among = run.span.places[first].spec.name in names
            stop = first + 1
            while stop < run.stop and (run.span.places[stop].spec.name in names) is among:
                stop += 1
            (named if among else others).append(run.part(first, stop))
            first = stop
    return others, named


def overlay(contributions: Sequence[Sequence[Run]]) -> Iterator[list[tuple[int, Run]]]:
    """Cut runs of several contributors so that those of each yielded list cover the same tensors.

    Each list names (index of the contributor, its run), in the order of the contributors; the lists come in
    the order of the layout. Tensors of nobody are in no list.
    """
    spans: dict[int, set[int]] = {}
    for runs in contributions:
        for run in runs:
            spans.setdefault(run.span.offset_bytes, set()).update((run.first, run.stop))
    cuts = {offset: sorted(edges) for offset, edges in spans.items()}
    pieces: dict[tuple[int, int], list[tuple[int, Run]]] = {}
    for index, runs in enumerate(contributions):
        for run in runs:
            edges = cuts[run.span.offset_bytes]
            at = bisect_left(edges, run.first)
            while edges[at] < run.stop:
                piece = run.part(edges[at], edges[at + 1])
                pieces.setdefault((run.span.offset_bytes, edges[at]), []).append((index, piece))
                at += 1
    for key in sorted(pieces):
        yield pieces[key]
