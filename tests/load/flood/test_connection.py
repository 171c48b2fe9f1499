"""The light connection against a server that cuts its replies anywhere."""

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest

from leeway.protocol.frames import encode
from tests.load.flood import crowd
from tests.load.flood.connection import Connection

MODEL_BYTES = 4096


def frame():
    tensors = crowd.update(MODEL_BYTES)
    return b"".join(bytes(part) for part in encode({"n": 1}, tensors.layout, tensors.buffers))


def reply(body, kind="application/json", status="200 OK"):
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def answering(pieces):
    """A connection to a server that sends these pieces, one after another, after each request."""

    serving = []

    async def serve(reader, writer):
        serving.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        shared = memoryview(bytearray(MODEL_BYTES))
        connection = await Connection.open(*server.sockets[0].getsockname(), shared)
        try:
            yield connection, shared
        finally:
            connection.close()
            await asyncio.gather(*serving)


def cut(data, *places):
    edges = [0, *places, len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


@pytest.mark.parametrize("places", [(), (5,), (60,), (85, 90, 150), (200, 300, 4000), tuple(range(1, 400, 7))])
async def test_a_frame_in_any_pieces(places):
    async with answering(cut(reply(frame(), "application/vnd.leeway.frame"), *places)) as (connection, shared):
        for exchanged in (1, 2):
            response = await connection.exchange(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", [b""])
            assert response.status == 200
            assert response.frame.message == {"n": 1}
            assert connection.received_bytes == exchanged * len(frame())
        assert np.array_equal(np.frombuffer(shared, np.uint8), np.frombuffer(response.frame.body, np.uint8))
        assert np.frombuffer(shared, np.float32).any()


@pytest.mark.parametrize("body", [b"", b"{}", b'{"a": 1}' * 5000])
async def test_what_is_no_frame_is_kept_as_it_is(body):
    async with answering(cut(reply(body), 3, 70)) as (connection, _):
        response = await connection.exchange(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (response.status, response.content, response.frame) == (200, body, None)
        assert connection.received_bytes == len(body)


async def test_what_was_sent_is_counted_by_its_body():
    async with answering([reply(b"{}")]) as (connection, _):
        head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n"
        await connection.exchange(head, [b"123", b"4567890"])
        assert connection.sent_bytes == 10


async def test_a_connection_that_is_lost():
    async with answering([b"HTTP/1.1 200 OK\r\nContent-Le"]) as (connection, _):
        asking = asyncio.create_task(connection.exchange(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"))
        await asyncio.sleep(0)
        connection.close()
        with pytest.raises(ConnectionError, match="closed a connection"):
            await asking
        with pytest.raises(ConnectionError):
            await connection.exchange(b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("nonsense", [b"HTTP/1.1 two\r\n\r\n", reply(b"x" * 99, "application/vnd.leeway.frame")])
async def test_nonsense_is_an_error(nonsense):
    async with answering([nonsense]) as (connection, _):
        with pytest.raises(Exception, match=r"invalid literal|magic"):
            await connection.exchange(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
