"""Writes the safetensors format without joining what is written: a head, and views of where the tensors lie.

The one rule: a file written here is one that the safetensors library reads. It wants the tensors one after
another without a hole; ours lie at multiples of 64 bytes, so each is a piece of its own.

The format: the length of the JSON in 8 bytes, little-endian; the JSON, padded with spaces; the tensors. An
entry of the JSON is `name: {dtype, shape, data_offsets: [begin, end]}`, counted from the end of the JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leeway.protocol.frames import flat
from leeway.protocol.limits import MAX_SAFETENSORS_HEADER_BYTES
from leeway.protocol.tensors import DTYPES, RESERVED_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from leeway.protocol.frames import Buffer
    from leeway.protocol.spans import Layout

# In the metadata of a checkpoint: all that is no tensor, a JSON object.
CHECKPOINT_KEY = "leeway"

# In the metadata of a download: the kind of each of its tensors, a JSON object.
KINDS_KEY = "leeway-kinds"

# The library pads to this, so that the tensors are aligned.
HEADER_ALIGNMENT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to be written: its bytes without padding."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def entries(layout: Layout, body: memoryview, prefix: str = "") -> list[Entry]:
    """The tensors of a body that lies as the layout says, under their names behind a prefix."""
    return [
        Entry(prefix + name, place.spec.dtype, place.spec.shape, body[place.offset_bytes : place.end_bytes])
        for name, place in layout.places.items()
    ]


def kinds(layout: Layout) -> str:
    """What stands under `KINDS_KEY`: so that a file can be initial values again and every tensor is what it was."""
    return json.dumps({name: str(place.spec.kind) for name, place in layout.places.items()}, separators=(",", ":"))


def write(tensors: Iterable[Entry], metadata: Mapping[str, str] | None = None) -> list[Buffer]:
    """The file as a list of buffers: the head, then a view of each tensor that is not empty.

    Raises `ValueError` for a name that the format reserves or that is there twice, or too large a header.
    """
    # As the library does it: the widest items first, so that every tensor is aligned to its own items.
    ordered = sorted(tensors, key=lambda entry: -DTYPES[entry.dtype].itemsize)
    header: dict[str, Any] = {RESERVED_NAME: dict(metadata)} if metadata else {}
    buffers: list[Buffer] = []
    begin = 0
    for entry in ordered:
        if entry.name == RESERVED_NAME or entry.name in header:
            raise ValueError(f"a safetensors file cannot hold a tensor called {entry.name!r} here")
        data = flat(entry.data)
        end = begin + len(data)
        header[entry.name] = {
            "dtype": DTYPES[entry.dtype].safetensors_code,
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
        begin = end
        if data:
            buffers.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT_BYTES)
    if len(text) > MAX_SAFETENSORS_HEADER_BYTES:
        raise ValueError(f"a header of {len(text)} bytes; safetensors allows {MAX_SAFETENSORS_HEADER_BYTES}")
    return [len(text).to_bytes(8, "little") + text, *buffers]
