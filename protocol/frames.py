"""A frame: 32 bytes of header, metadata, padding, and a body of tensors that lie as `spans` says.

The one rule: bodies are never copied here. Encoding puts a head in front of the caller's buffers; a decoded
frame gives views of the one buffer that was filled. docs/reference/frame-format.md describes every byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from leeway.protocol.metadata import pack
from leeway.protocol.tensors import aligned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leeway.protocol.spans import Layout, Place
    from leeway.protocol.tensors import TensorSpec

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"LWAY"
FORMAT_VERSION = 1

# Magic, format version, flags, metadata length, reserved, body length, reserved; little-endian.
HEADER = struct.Struct("<4sHHIIQQ")


def flat(buffer: Buffer) -> memoryview:
    """The bytes of a buffer of any item type, without a copy. Raises `ValueError` if it is not contiguous."""
    view = memoryview(buffer)
    if view.nbytes == 0:
        # memoryview refuses to cast a shape with a zero in it.
        return memoryview(b"")
    if not view.c_contiguous:
        raise ValueError("a buffer of a body must be contiguous")
    return view.cast("B")


def frame_length(buffers: Sequence[Buffer]) -> int:
    """Bytes of an encoded frame, as for `Content-Length`."""
    return sum(memoryview(buffer).nbytes for buffer in buffers)


def encode(message: Mapping[str, object], layout: Layout | None = None, body: Sequence[Buffer] = ()) -> list[Buffer]:
    """Encode a frame as a head of a few hundred bytes and the body's buffers, which are not touched.

    `message` is plain data with text keys. `body` is what lies in the layout, in order and with the padding
    (zeros), cut into contiguous buffers anywhere; together `layout.nbytes`. Without layout there is no body.
    Raises `ValueError` when the lengths do not fit or the message cannot be packed.
    """
    expected_bytes = 0 if layout is None else layout.nbytes
    body_bytes = frame_length(body)
    if body_bytes != expected_bytes:
        raise ValueError(f"the body's buffers have {body_bytes} bytes; the layout takes {expected_bytes}")
    metadata = pack(message, layout)
    head = HEADER.pack(MAGIC, FORMAT_VERSION, 0, len(metadata), 0, body_bytes, 0) + metadata
    return [head.ljust(aligned(len(head)), b"\0"), *body]


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame. `places` is in the order of the body; `body` is the buffer that the decoder filled.

    The message is plain data and no more: whether it makes sense is for the message's own module to say. The
    tensors are those the peer declared: whether they are the expected ones is for the caller to check, with
    `matches` for all at once.
    """

    message: dict[str, Any]
    places: tuple[Place, ...]
    body: memoryview
    _by_name: dict[str, Place] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {place.spec.name: place for place in self.places})

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        return tuple(place.spec for place in self.places)

    def tensor(self, name: str) -> memoryview:
        """A tensor's bytes without padding, as a view of the body. Raises `KeyError` for an unknown name."""
        place = self._by_name[name]
        return self.body[place.offset_bytes : place.end_bytes]

    def matches(self, layout: Layout) -> bool:
        """Whether the body lies exactly as in `layout`, so that it can be used span by span as it is."""
        return self.places == tuple(layout.places.values())
