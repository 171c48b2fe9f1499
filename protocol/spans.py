"""How tensors lie in one flat body: the same layout for frames, versions and the optimizer's state.

The one rule: a layout is a function of the set of its specs alone. Whoever has the same tensors, in whatever
order, computes the same offsets, so a received body can be used as it lies.

Tensors are sorted so that all which are treated alike are neighbours; such a run is a *span*. Every tensor
begins at a multiple of 64 bytes and is followed by zeros up to the next one, so a span is one flat array of
its dtype, and an elementwise operation on it is one call however many tensors it holds. (The padding stays
zero under whatever maps zero to zero, as an optimizer's step on zero parameters with zero gradients does.)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING

from leeway.protocol.limits import MAX_TENSORS
from leeway.protocol.tensors import Kind, TensorSpec, aligned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_KIND_ORDER = {kind: index for index, kind in enumerate(Kind)}


def is_decayed(spec: TensorSpec) -> bool:
    """Whether a tensor is in the parameter group that weight decay acts on.

    Matrices and convolution kernels are; vectors and scalars (biases, scales of norms) lie in a span of their
    own, so that they can be left out by a switch on the server. Told from the shape, the same for all kinds.
    """
    return len(spec.shape) >= 2


def _order(spec: TensorSpec) -> tuple[int, str, bool, str]:
    # Python compares strings by code point, which is also the order of their UTF-8 bytes.
    return _KIND_ORDER[spec.kind], spec.dtype, not is_decayed(spec), spec.name


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies. `offset_bytes` counts from the body's start and is a multiple of 64."""

    spec: TensorSpec
    offset_bytes: int

    @property
    def end_bytes(self) -> int:
        """Just behind the tensor's last byte, before its padding."""
        return self.offset_bytes + self.spec.nbytes

    def __str__(self) -> str:
        return f"{self.spec} @{self.offset_bytes}"


@dataclass(frozen=True, slots=True)
class Span:
    """A run of tensors of one kind, dtype and parameter group: one flat array of `nbytes`, padding included.

    `nbytes` is a multiple of 64, and the next span begins where this one ends.
    """

    kind: Kind
    dtype: str
    decayed: bool
    offset_bytes: int
    nbytes: int
    places: tuple[Place, ...]

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.nbytes

    def __str__(self) -> str:
        group = "decayed" if self.decayed else "undecayed"
        ends = f"{self.offset_bytes}..{self.end_bytes}"
        return f"{self.kind} {self.dtype} {group} {ends}: {len(self.places)} tensors"


@dataclass(frozen=True, slots=True)
class Layout:
    """Every tensor's place in a body of `nbytes`. Made by `Layout.of`; equal when the specs are.

    `places` is in body order. `digest` is the SHA-256, in hex, of the specs in body order, one line each:
    name, dtype, kind and the comma-separated shape, with tabs between and a newline behind, in UTF-8.
    """

    digest: str
    nbytes: int = field(compare=False)
    spans: tuple[Span, ...] = field(compare=False)
    places: Mapping[str, Place] = field(compare=False)

    @classmethod
    def of(cls, specs: Iterable[TensorSpec]) -> Layout:
        """Lay out tensors given in any order. Raises `ValueError` for a name twice or too many tensors."""
        ordered = sorted(specs, key=_order)
        if len(ordered) > MAX_TENSORS:
            raise ValueError(f"{len(ordered)} tensors; the limit is {MAX_TENSORS}")
        digest = hashlib.sha256()
        places: dict[str, Place] = {}
        spans = []
        offset = 0
        for (kind, dtype, decayed), members in groupby(
            ordered, key=lambda spec: (spec.kind, spec.dtype, is_decayed(spec))
        ):
            start = offset
            span = []
            for spec in members:
                if spec.name in places:
                    raise ValueError(f"tensor name {spec.name!r} is there twice")
                place = places[spec.name] = Place(spec, offset)
                span.append(place)
                # Names are printable, so neither a tab nor a newline can be in one.
                shape = ",".join(map(str, spec.shape))
                digest.update(f"{spec.name}\t{spec.dtype}\t{spec.kind}\t{shape}\n".encode())
                offset = aligned(place.end_bytes)
            spans.append(Span(kind, dtype, decayed, start, offset - start, tuple(span)))
        return cls(digest.hexdigest(), offset, tuple(spans), MappingProxyType(places))

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __len__(self) -> int:
        """The number of tensors."""
        return len(self.places)

    def restrict(self, names: Iterable[str]) -> Layout:
        """A layout of its own for some of the tensors. Raises `ValueError` for an unknown name."""
        wanted = set(names)
        unknown = sorted(wanted - self.places.keys())
        if unknown:
            raise ValueError(f"no tensor is called {unknown[0]!r}")
        return Layout.of(place.spec for name, place in self.places.items() if name in wanted)

    def excerpt(self, names: Iterable[str]) -> tuple[Layout, list[slice]]:
        """A layout of its own for some of the tensors, and the stretches of a body of this one that make one of that:
        as few as there can be, padding included. Raises `ValueError` for an unknown name.
        """
        wanted = self.restrict(names)
        stretches: list[slice] = []
        for name in wanted.places:
            place = self.places[name]
            start, end = place.offset_bytes, aligned(place.end_bytes)
            if stretches and stretches[-1].stop == start:
                start = stretches.pop().start
            stretches.append(slice(start, end))
        return wanted, stretches

    def __str__(self) -> str:
        counts = f"{len(self.places)} tensors in {len(self.spans)} spans"
        return f"{counts}, {self.nbytes} bytes, {self.digest[:12]}"
