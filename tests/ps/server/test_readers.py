"""Slow readers: they pin old versions, get a deadline, are closed; nothing that is read ever changes."""

import asyncio
import contextlib

import numpy as np
import pytest
import uvloop

from leeway.protocol.spans import Layout
from leeway.ps.arithmetic.versions import Snapshot
from leeway.ps.server.readers import DEADLINE_SECONDS, Readers
from leeway.transport.http import sending as rendering
from leeway.transport.memory.pool import Pool
from tests.ps.server.rawclient import FRAME, arrays
from tests.ps.server.serving import serve

LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]


class Transport:
    def __init__(self):
        self.aborted = False

    def abort(self):
        self.aborted = True


def version(number):
    return Snapshot(number, Layout.of(()), Pool().take(64).toreadonly())


class TestReaders:
    @pytest.fixture
    def closed(self):
        return []

    @pytest.fixture
    def some(self, closed):
        return Readers(lambda: closed.append(1))

    def test_reading_ends_with_the_last_reference_to_any_part(self, some):
        lent = some.lend("default", version(1), None)
        part = lent[10:20]
        assert len(some) == 1
        del lent
        assert len(some) == 1
        del part
        assert len(some) == 0

    def test_what_is_lent_is_the_version_and_cannot_be_written(self, some):
        one = version(1)
        lent = some.lend("default", one, None)
        assert lent == one.body
        assert lent.readonly

    def test_an_empty_version(self, some):
        lent = some.lend("default", Snapshot(1, Layout.of(()), memoryview(b"")), None)
        assert lent.nbytes == 0

    def test_nobody_is_closed_while_there_is_room(self, some, closed):
        transport = Transport()
        _lent = some.lend("default", version(1), transport)
        some.close_late(1e9)
        assert (transport.aborted, closed) == (False, [])

    def test_only_readers_of_an_old_version_of_that_group_get_a_deadline(self, some, closed):
        transports = {name: Transport() for name in ("old", "current", "other group")}
        lent = [
            some.lend("default", version(1), transports["old"]),
            some.lend("default", version(2), transports["current"]),
            some.lend("head", version(1), transports["other group"]),
        ]
        some.press("default", 2, now=100.0)
        some.press("default", 2, now=105.0)  # the deadline stands
        some.close_late(100.0 + DEADLINE_SECONDS - 0.1)
        assert closed == []
        some.close_late(100.0 + DEADLINE_SECONDS)
        assert [name for name, transport in transports.items() if transport.aborted] == ["old"]
        assert closed == [1]
        some.close_late(1e9)
        assert closed == [1]
        assert len(lent) == 3

    def test_a_pause_of_the_server_is_not_their_fault(self, some, closed):
        _lent = some.lend("default", version(1), None)
        some.paused(50.0, now=60.0)  # of those without a deadline there is nothing to move
        some.press("default", 2, now=100.0)
        some.paused(50.0, now=155.0)
        some.close_late(155.0 + DEADLINE_SECONDS - 5.1)
        assert closed == []
        some.close_late(155.0 + DEADLINE_SECONDS - 5.0)
        assert closed == [1]

    def test_one_without_a_connection_any_more(self, some, closed):
        _lent = some.lend("default", version(1), None)
        some.press("default", 2, now=0.0)
        some.close_late(DEADLINE_SECONDS)
        assert closed == [1]


# 16 MB: more than a socket and a transport take in before their writer is held up.
ELEMENTS = 4_000_000


async def stuck(server, stack):
    """A reader who has asked and does not read."""
    connection = await stack.enter_async_context(server.connect(small=True))
    before = len(server.runtime.readers)
    await connection.send_head("GET", "/v1/params", {"Accept": FRAME})
    await server.until(lambda: len(server.runtime.readers) > before)
    return connection


async def slow_readers_are_closed():
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(mode="async", lr=1.0, lease_seconds=1000.0))
        await server.offer({"weight": np.zeros(ELEMENTS, np.float32)})
        worker = await server.join("w0")
        ones = {"weight": np.ones(ELEMENTS, np.float32)}
        versions = server.runtime.parameters["default"].versions
        readers = []
        for _ in range(3):
            readers.append(await stuck(server, stack))
            await worker.step(ones)
        # Versions 1 to 3 are pinned, 4 is current: there is no room for a fifth.
        assert versions.pinned() == (1, 2, 3)
        await worker.pull()
        waiting = asyncio.create_task(worker.push(ones))
        await server.until(lambda: not server.runtime.publishing.appliers["default"].idle)
        assert server.runtime.machine.groups["default"].published == 4
        # Small requests go on as ever.
        assert (await server.get("/v1/status")).status == 200
        server.advance(DEADLINE_SECONDS - 0.1)
        assert server.metric("slow_readers_closed_total") == 0
        assert not waiting.done()
        server.advance(0.2)
        assert server.metric("slow_readers_closed_total") == 3
        assert (await waiting).json["disposition"] == "applied"
        for connection in readers:
            assert len(await connection.closed()) < ELEMENTS * 4
        # Publishing goes on, and the memory of the old versions is back.
        for _ in range(3):
            await worker.step(ones)
        await server.until(lambda: versions.live == 1)
        assert np.array_equal((await server.values())["weight"], np.full(ELEMENTS, -7, np.float32))


@pytest.mark.parametrize("new_loop", LOOPS)
def test_who_pins_old_versions_is_closed_and_the_run_goes_on(new_loop):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(slow_readers_are_closed())


def test_also_when_the_handler_has_long_ended(monkeypatch):
    """The whole reply lies in the transport. uvloop keeps views of it; asyncio's own would have made a copy."""
    monkeypatch.setattr(rendering, "UNSENT_HIGH_BYTES", 1 << 30)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(slow_readers_are_closed())


async def no_torn_reads():
    async with serve(mode="async", lr=1.0) as server, server.connect(small=True) as slow:
        half = ELEMENTS // 2
        ones = {name: np.ones(half, np.float32) for name in ("first", "last")}
        await server.offer({name: np.zeros(half, np.float32) for name in ones})
        worker = await server.join("w0")
        await slow.send_head("GET", "/v1/params", {"Accept": FRAME})
        await server.until(lambda: len(server.runtime.readers))
        # Versions come out, and old memory is used anew, while the first is half read.
        replies = []
        for _ in range(4):
            await worker.step(ones)
            replies.append(await server.get("/v1/params", {"Accept": FRAME}))
        replies.insert(0, await slow.reply())
        for number, reply in enumerate(replies, start=1):
            assert reply.headers["etag"].endswith(f'.{number}"')
            for array in arrays(reply).values():
                assert np.array_equal(array, np.full(half, 1 - number, np.float32))


@pytest.mark.parametrize("new_loop", LOOPS)
def test_all_tensors_of_a_reply_are_of_one_version(new_loop):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(no_torn_reads())


async def test_a_pushpull_reply_that_nobody_reads_counts_too(start):
    server = await start(mode="async", lease_seconds=1000.0)
    await server.offer({"weight": np.zeros(ELEMENTS, np.float32)})
    worker, other = await server.join("w0"), await server.join("w1")
    await worker.pull()
    ones = {"weight": np.ones(ELEMENTS, np.float32)}
    async with server.connect(small=True) as connection:
        body = worker.push_body(ones)
        await connection.send_head("POST", "/v1/updates?pull=1", {"Content-Type": FRAME, "Content-Length": len(body)})
        await connection.send(body)
        await server.until(lambda: len(server.runtime.readers))
        await other.step(ones)
        versions = server.runtime.parameters["default"].versions
        pins = [versions.fresh(9, 64), versions.fresh(9, 64)]
        await other.pull()
        waiting = asyncio.create_task(other.push(ones))
        await server.until(lambda: not server.runtime.publishing.appliers["default"].idle)
        server.advance(DEADLINE_SECONDS + 0.1)
        assert (await waiting).json["disposition"] == "applied"
        assert server.metric("slow_readers_closed_total") == 1
        pins.clear()
        # The push whose reply was cut off had been applied.
        assert (await server.push(body)).json["reason"] == "repeated"
