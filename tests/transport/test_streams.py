from __future__ import annotations

import asyncio

import numpy as np
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from leeway.errors import BodyTooLarge, MalformedFrame
from leeway.protocol.decoder import Decoder
from leeway.protocol.frames import encode, flat, frame_length
from leeway.protocol.limits import FIRST_PIECE_BYTES, WRITE_CHUNK_BYTES
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.transport.memory.aligned import allocate_aligned
from leeway.transport.streams import pieces, receive, receive_bytes, send

LAYOUT = Layout.of([TensorSpec("w", (1000,), "float32", Kind.TRAINABLE)])
LARGE = Layout.of([TensorSpec("w", (600_000,), "float32", Kind.TRAINABLE)])
FRAME = b"".join(encode({"a": 1}, LAYOUT, [bytes(range(250)) * 16 + bytes(32)]))


class Chunks:
    """A reader of the given chunks, then of nothing."""

    def __init__(self, *chunks):
        self.chunks = [chunk for chunk in chunks if chunk]

    async def readany(self):
        return self.chunks.pop(0) if self.chunks else b""


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self):
        self.given = []

    async def write(self, data, /):
        self.given.append(data)


@given(st.lists(st.integers(0, len(FRAME)), max_size=8).map(sorted))
def test_a_frame_arrives_in_any_chunks(cuts):
    chunks = [FRAME[start:end] for start, end in zip([0, *cuts], [*cuts, len(FRAME)], strict=True)]
    frame = asyncio.run(receive(Chunks(*chunks), Decoder(10_000, allocate_aligned)))
    assert frame.message == {"a": 1}
    assert frame.matches(LAYOUT)
    assert frame.body == FRAME[-LAYOUT.nbytes :]


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 100, len(FRAME) - 1])
async def test_a_frame_that_ends_early(length):
    with pytest.raises(MalformedFrame, match="truncated"):
        await receive(Chunks(FRAME[:length]), Decoder(10_000, allocate_aligned))


@pytest.mark.parametrize("chunks", [(FRAME + b"xy",), (FRAME, b"xy"), (FRAME[:50], FRAME[50:] + b"xy")])
async def test_bytes_behind_the_frame(chunks):
    with pytest.raises(MalformedFrame, match="at least 2 bytes follow the frame's end"):
        await receive(Chunks(*chunks), Decoder(10_000, allocate_aligned))


async def test_a_body_over_the_limit_is_refused_on_its_header_alone():
    reader = Chunks(FRAME[:40], FRAME[40:])
    with pytest.raises(BodyTooLarge):
        await receive(reader, Decoder(1000, allocate_aligned))
    assert reader.chunks == [FRAME[40:]]


async def test_what_the_reader_raises_passes_through():
    class Broken:
        async def readany(self):
            raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        await receive(Broken(), Decoder(1000, allocate_aligned))


async def test_over_http_with_aiohttp_on_both_sides():
    async def echo(request):
        frame = await receive(request.content, Decoder(10_000_000, allocate_aligned))
        buffers = encode({"echo": frame.message}, LARGE, [frame.body])
        response = web.StreamResponse()
        response.content_length = frame_length(buffers)
        await response.prepare(request)
        await send(response, buffers)
        return response

    body = np.arange(LARGE.nbytes // 4, dtype=np.float32)
    buffers = encode({"n": 1}, LARGE, [body.data])
    headers = {"Content-Length": str(frame_length(buffers))}
    app = web.Application()
    app.router.add_post("/", echo)
    async with (
        TestServer(app) as server,
        ClientSession() as session,
        session.post(server.make_url("/"), data=pieces(buffers), headers=headers) as response,
    ):
        frame = await receive(response.content, Decoder(10_000_000, allocate_aligned))
    assert frame.message == {"echo": {"n": 1}}
    assert frame.matches(LARGE)
    assert frame.body == body.tobytes()


@pytest.mark.parametrize("chunks", [(), (b"abc",), (b"a", b"bc"), (b"abc", b"de")])
async def test_receive_bytes(chunks):
    assert await receive_bytes(Chunks(*chunks), 5) == b"".join(chunks)


async def test_receive_bytes_counts_while_streaming():
    reader = Chunks(b"abc", b"def", b"never read")
    with pytest.raises(BodyTooLarge, match="the body has more than 5 bytes, the limit here"):
        await receive_bytes(reader, 5)
    assert reader.chunks == [b"never read"]


async def test_send_writes_views_a_small_one_first():
    body = np.arange(WRITE_CHUNK_BYTES // 4 * 2 + 10, dtype=np.float32)
    writer = Kept()
    await send(writer, [b"head", body.data, b""])
    sizes = [len(view) for view in writer.given]
    assert sizes == [4, WRITE_CHUNK_BYTES, WRITE_CHUNK_BYTES, 40]
    assert b"".join(writer.given) == b"head" + body.tobytes()
    body[0] = 42.0
    assert bytes(writer.given[1][:4]) == np.float32(42).tobytes()


async def test_send_writes_nothing_for_nothing():
    writer = Kept()
    await send(writer, [])
    await send(writer, [b"", b""])
    assert writer.given == []


async def test_pieces_are_the_same():
    whole = bytes(FIRST_PIECE_BYTES) + b"x" * WRITE_CHUNK_BYTES + b"yz"
    collected = [piece async for piece in pieces([whole])]
    assert [len(piece) for piece in collected] == [FIRST_PIECE_BYTES, WRITE_CHUNK_BYTES, 2]
    assert b"".join(collected) == whole
    writer = Kept()
    await send(writer, [whole])
    assert writer.given == collected


async def test_pieces_can_be_made_again_and_share_the_memory():
    source = bytearray(b"abc")
    (first,) = [piece async for piece in pieces([source])]
    (second,) = [piece async for piece in pieces([source])]
    source[0] = ord("z")
    assert first == second == b"zbc"


async def test_what_is_sent_is_received():
    body = [flat(np.arange(1000, dtype=np.float32).data), bytes(96 - 64)]
    writer = Kept()
    await send(writer, encode({"b": [2]}, LAYOUT, body))
    frame = await receive(Chunks(*map(bytes, writer.given)), Decoder(LAYOUT.nbytes, allocate_aligned))
    assert frame.message == {"b": [2]}
    assert np.frombuffer(frame.tensor("w"), np.float32).tolist() == list(range(1000))
