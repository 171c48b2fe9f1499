"""Moves bodies between a reader or a writer and buffers, for the server and the client alike.

The one rule: the only place that awaits a body. Readers and writers are known by shape alone: aiohttp's
`StreamReader` and `StreamResponse` fit, and so does a test's list of chunks. What they raise passes through.

Receiving never joins chunks, it copies each to where it belongs; sending never joins buffers, it cuts views.
A writer may hold on to a view after its `write` has returned (uvloop does), so what is sent must not change
until nobody refers to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from leeway.errors import BodyTooLarge, MalformedFrame
from leeway.protocol.frames import Buffer, Frame, flat
from leeway.protocol.limits import FIRST_PIECE_BYTES, WRITE_CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from leeway.protocol.decoder import Decoder


class Reader(Protocol):
    async def readany(self) -> bytes:
        """Whatever has arrived, at least a byte; b"" at the end."""


class Writer(Protocol):
    async def write(self, data: memoryview, /) -> None:
        """Take the bytes; wait while too many are unsent."""


async def receive(reader: Reader, decoder: Decoder) -> Frame:
    """Receive a body that is one frame, each chunk copied once, to where the decoder wants it.

    Raises `MalformedFrame` when the bytes are no frame, end early or go on behind it, `BodyTooLarge` when the
    header declares more than the decoder's limit.
    """
    while chunk := await reader.readany():
        taken = decoder.feed(chunk)
        if taken < len(chunk):
            raise MalformedFrame(f"at least {len(chunk) - taken} bytes follow the frame's end")
    decoder.end()
    return decoder.frame


async def receive_bytes(reader: Reader, limit_bytes: int) -> bytes:
    """Receive a small body as a whole (JSON, for example).

    Raises `BodyTooLarge` as soon as more than `limit_bytes` have arrived.
    """
    received = bytearray()
    while chunk := await reader.readany():
        if len(received) + len(chunk) > limit_bytes:
            raise BodyTooLarge(f"the body has more than {limit_bytes} bytes, the limit here")
        received += chunk
    return bytes(received)


async def send(writer: Writer, buffers: Sequence[Buffer]) -> None:
    """Write buffers one after another as views: a small one first, then up to `WRITE_CHUNK_BYTES` each."""
    for piece in _cut(buffers):
        await writer.write(piece)


async def pieces(buffers: Sequence[Buffer]) -> AsyncIterator[memoryview]:
    """The same pieces as an async iterator, for a client's request body with an explicit `Content-Length`.

    It can be gone through once: to send again, call again.
    """
    for piece in _cut(buffers):
        yield piece


def _cut(buffers: Sequence[Buffer]) -> Iterator[memoryview]:
    size = FIRST_PIECE_BYTES
    for buffer in buffers:
        view = flat(buffer)
        start = 0
        while start < len(view):
            yield view[start : start + size]
            start += size
            size = WRITE_CHUNK_BYTES
