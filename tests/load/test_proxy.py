"""The slow network: when bytes arrive, by the clock alone; and that a real connection feels it."""

import asyncio
import time
from itertools import pairwise

import pytest

from tests.load.proxy import BURST_BYTES, CHUNK_BYTES, Link, listening

RATE = 1e6
DELAY = 0.05


def arrivals(link, chunks, gap_seconds=0.0):
    return [link.arrival(number * gap_seconds, CHUNK_BYTES) for number in range(chunks)]


def test_what_fits_the_bucket_takes_the_delay_alone():
    link = Link(RATE, DELAY)
    assert arrivals(link, BURST_BYTES // CHUNK_BYTES) == pytest.approx([DELAY] * (BURST_BYTES // CHUNK_BYTES))


def test_behind_the_bucket_bytes_come_at_the_rate():
    link = Link(RATE, DELAY)
    moments = arrivals(link, 100)
    gaps = [later - earlier for earlier, later in pairwise(moments[10:])]
    assert gaps == pytest.approx([CHUNK_BYTES / RATE] * len(gaps))
    assert moments[-1] == pytest.approx(DELAY + (100 * CHUNK_BYTES - BURST_BYTES) / RATE)


def test_a_sender_below_the_rate_is_not_held_up():
    link = Link(RATE, DELAY)
    gap_seconds = 1.01 * CHUNK_BYTES / RATE
    moments = arrivals(link, 50, gap_seconds)
    assert moments == pytest.approx([number * gap_seconds + DELAY for number in range(50)])


def test_a_pause_fills_the_bucket_and_no_more_than_that():
    link = Link(RATE, DELAY)
    arrivals(link, 20)
    later = 1000.0
    moments = [link.arrival(later, CHUNK_BYTES) - later for _ in range(4)]
    assert moments == pytest.approx([DELAY, DELAY, DELAY + CHUNK_BYTES / RATE, DELAY + 2 * CHUNK_BYTES / RATE])


@pytest.fixture
async def serving():
    """Start a server of `handle`; its port. Every connection is closed at the end."""
    started, writers = [], []

    async def start(handle):
        async def connected(reader, writer):
            writers.append(writer)
            await handle(reader, writer)

        started.append(await asyncio.start_server(connected, "127.0.0.1", 0))
        return started[-1].sockets[0].getsockname()[1]

    yield start
    for server in started:
        server.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)


@pytest.fixture
async def connect():
    """Open a connection, which is closed at the end."""
    opened = []

    async def open_connection(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append(writer)
        return reader, writer

    yield open_connection
    for writer in opened:
        writer.transport.abort()
    await asyncio.sleep(0)


async def test_a_connection_has_the_delay_twice_and_the_rate(serving, connect):
    received = bytearray()

    async def echo(reader, writer):
        while data := await reader.read(CHUNK_BYTES):
            received.extend(data)
            writer.write(data)
        writer.write_eof()

    port = await serving(echo)
    async with listening("127.0.0.1", port, Link(RATE, DELAY), Link(1e9, DELAY)) as own:
        reader, writer = await connect(own)
        began = time.monotonic()
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        assert time.monotonic() - began >= 2 * DELAY
        body = bytes(range(256)) * 1024
        began = time.monotonic()
        writer.write(body)
        writer.write_eof()
        assert await reader.read(-1) == body
        assert time.monotonic() - began >= 2 * DELAY + (len(body) - BURST_BYTES) / RATE
    assert received == b"ping" + body


async def test_what_is_on_the_way_is_bounded(serving, connect):
    """A server that reads nothing stops the sender: it is not the proxy that takes everything in."""
    done = asyncio.Event()

    async def deaf(reader, writer):
        await done.wait()

    port = await serving(deaf)
    async with listening("127.0.0.1", port, Link(1e9, 0.0), Link(1e9, 0.0)) as own:
        _, writer = await connect(own)
        writer.write(bytes(64 * 2**20))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await writer.drain()
        done.set()


async def test_a_server_that_is_not_there_closes_the_connection(serving, connect):
    async def nothing(reader, writer):
        pass

    port = await serving(nothing)
    async with listening("127.0.0.1", port, Link(RATE, 0.0), Link(RATE, 0.0)) as own:
        pass
    async with listening("127.0.0.1", own, Link(RATE, 0.0), Link(RATE, 0.0)) as leads_nowhere:
        reader, _ = await connect(leads_nowhere)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
