"""The metadata of a frame: a msgpack map that holds the message and, under one key, the tensor table.

The one rule: metadata is plain data (null, bool, integer, float, text, list, map with text keys), bounded in
every direction, and says nothing about tensors but where they lie. Both sides check it, so a mistake of ours
shows as a `ValueError` where it is made and not as a refusal by the peer.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any, NoReturn

import msgpack  # type: ignore[import-untyped]

from leeway.errors import MalformedFrame, MalformedRequest, WireError
from leeway.protocol.codes import Code
from leeway.protocol.limits import (
    MAX_CONTAINER_ITEMS,
    MAX_METADATA_BYTES,
    MAX_METADATA_DEPTH,
    MAX_METADATA_VALUES,
    MAX_TENSORS,
)
from leeway.protocol.spans import Layout, Place
from leeway.protocol.tensors import ALIGNMENT_BYTES, TensorSpec, aligned

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLE_KEY = "tensors"


class _Counter:
    """Counts values while they are unpacked or walked, and stops before they are too many."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = 0

    def count(self, items: int) -> None:
        self.values += 1 + items
        if self.values > MAX_METADATA_VALUES:
            raise ValueError(f"more than {MAX_METADATA_VALUES} values")

    def list_hook(self, items: list[Any]) -> list[Any]:
        self.count(len(items))
        return items

    def pairs_hook(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self.count(len(pairs))
        unpacked = dict(pairs)
        if len(unpacked) != len(pairs):
            raise ValueError("a map has the same key twice")
        return unpacked

    def walk(self, value: object, depth: int) -> None:
        """Raise `ValueError` unless `value` is plain data within the limits."""
        if value is None or isinstance(value, bool | int | float | str):
            return
        if not isinstance(value, dict | list | tuple):
            raise ValueError(f"a {type(value).__name__} is not plain data: {reprlib.repr(value)}")
        if depth >= MAX_METADATA_DEPTH:
            raise ValueError(f"nested more than {MAX_METADATA_DEPTH} deep")
        if len(value) > MAX_CONTAINER_ITEMS:
            raise ValueError(f"{len(value)} items in one list or map; the limit is {MAX_CONTAINER_ITEMS}")
        self.count(len(value))
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise ValueError(f"key {reprlib.repr(key)} is not text")
            value = list(value.values())
        for item in value:
            self.walk(item, depth + 1)


def pack(message: Mapping[str, object], layout: Layout | None) -> bytes:
    """Pack a message, and the layout's tensor table where there is one.

    Raises `ValueError` when the message is not plain data, uses the table's key, or is over a limit.
    """
    if TABLE_KEY in message:
        raise ValueError(f"the key {TABLE_KEY!r} is the tensor table's; a message cannot use it")
    metadata = dict(message)
    _Counter().walk(metadata, 0)
    if layout is not None:
        metadata[TABLE_KEY] = [[*place.spec.to_row(), place.offset_bytes] for place in layout.places.values()]
    try:
        packed: bytes = msgpack.packb(metadata)
    except OverflowError as error:
        raise ValueError(f"an integer does not fit into 64 bits: {error}") from None
    if len(packed) > MAX_METADATA_BYTES:
        raise ValueError(f"{len(packed)} bytes of metadata; the limit is {MAX_METADATA_BYTES}")
    return packed


def unpack(packed: memoryview, body_bytes: int) -> tuple[dict[str, Any], tuple[Place, ...]]:
    """Unpack metadata of at most `MAX_METADATA_BYTES` into the message and the tensors' places.

    The places follow one another without gaps but the padding and fill a body of `body_bytes` exactly.
    Raises `MalformedFrame`.
    """
    counter = _Counter()
    try:
        metadata = msgpack.unpackb(
            packed,
            raw=False,
            strict_map_key=True,
            list_hook=counter.list_hook,
            object_pairs_hook=counter.pairs_hook,
            ext_hook=_no_extension,
            max_array_len=MAX_CONTAINER_ITEMS,
            max_map_len=MAX_CONTAINER_ITEMS,
            max_bin_len=0,
            max_ext_len=0,
        )
    except ValueError as error:
        # msgpack's FormatError carries no words of its own.
        raise MalformedFrame(f"metadata is not valid msgpack: {str(error) or type(error).__name__}") from None
    if not isinstance(metadata, dict):
        raise MalformedFrame(f"metadata is not a map but {reprlib.repr(metadata)}")
    rows = metadata.pop(TABLE_KEY, [])
    try:
        _Counter().walk(metadata, 0)
    except ValueError as error:
        raise MalformedFrame(f"metadata: {error}") from None
    return metadata, _places(rows, body_bytes)


def _no_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code} is not plain data")


def _places(rows: object, body_bytes: int) -> tuple[Place, ...]:
    if not isinstance(rows, list) or len(rows) > MAX_TENSORS:
        raise MalformedFrame(f"tensor table is not a list of at most {MAX_TENSORS} rows")
    places: dict[str, Place] = {}
    end = 0
    for index, row in enumerate(rows):
        place = _place(index, row)
        name, offset = place.spec.name, place.offset_bytes
        if name in places:
            raise WireError(Code.DUPLICATE_TENSOR, f"tensor {name!r} is there twice", tensor=name)
        if offset % ALIGNMENT_BYTES:
            raise MalformedFrame(f"{name}: offset {offset} is not a multiple of {ALIGNMENT_BYTES}")
        if offset != end:
            fault = "overlaps the tensor before it" if offset < end else "leaves a gap"
            raise MalformedFrame(f"{name}: offset {offset} {fault}; it must be {end}")
        places[name] = place
        end = aligned(place.end_bytes)
        if end > body_bytes:
            raise MalformedFrame(f"{name}: ends at {end} with its padding; the body has {body_bytes} bytes")
    if end != body_bytes:
        raise MalformedFrame(f"the tensors take {end} bytes; the header declares a body of {body_bytes}")
    return tuple(places.values())


def _place(index: int, row: object) -> Place:
    if not isinstance(row, list) or len(row) != 5 or type(row[4]) is not int:
        raise MalformedFrame(
            f"tensor table: row {index} is not [name, dtype, kind, shape, offset]: {reprlib.repr(row)}"
        )
    try:
        return Place(TensorSpec.read(row[:4]), row[4])
    except MalformedRequest as error:
        raise MalformedFrame(f"tensor table: row {index}: {error.detail}") from None
