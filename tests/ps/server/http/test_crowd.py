"""Who may stay connected, when there are too many and when they say nothing."""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from leeway.protocol.limits import MAX_CONNECTIONS
from leeway.ps.watching.catalogue import CLOSINGS
from leeway.transport import descriptors
from leeway.transport.http import connection
from leeway.transport.http.crowd import Closed
from tests.ps.server.rawclient import FRAME

ROOT = Path(__file__).parents[4]
HEAD = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PARKED = b"GET /v1/params?min_version=9 HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait=60\r\n\r\n"


@pytest.fixture
async def connect():
    """Connections that stay open until the test ends."""
    async with contextlib.AsyncExitStack() as stack:
        yield lambda server: stack.enter_async_context(server.connect())


async def is_served(client):
    return (await client.request("GET", "/livez")).status == 200


def closed(server, why):
    return server.metric("connections_closed_total", reason=why)


def test_every_reason_is_in_the_catalogue():
    assert tuple(Closed) == CLOSINGS


class TestSilence:
    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch):
        monkeypatch.setattr(connection, "MAX_HEAD_SECONDS", 0.05)

    @pytest.mark.parametrize("said", [b"", b"G", HEAD, b"\r\n"], ids=["nothing", "a byte", "no end", "an empty line"])
    async def test_whoever_does_not_end_the_head_of_a_request_is_closed(self, server, connect, said):
        client = await connect(server)
        await client.send(said)
        assert await client.closed() == b""
        assert closed(server, "silent") == 1

    async def test_the_head_of_a_later_request_too(self, server, connect):
        client = await connect(server)
        assert await is_served(client)
        await client.send(HEAD)
        assert await client.closed() == b""
        assert closed(server, "silent") == 1

    async def test_whoever_is_between_requests_or_within_a_body_or_waits_stays(self, server, connect):
        between, within, waiting, silent = [await connect(server) for _ in range(4)]
        assert await is_served(between)
        body = b'{"rank": "w0", "session": "s"}'
        await within.send_head("POST", "/v1/workers", {"Content-Length": len(body)})
        await within.send(body[:3])
        await waiting.send(PARKED.replace(b"min_version=9", b"min_version=2"))
        assert await silent.closed() == b""
        assert await is_served(between)
        await within.send(body[3:])
        assert (await within.reply()).status == 200
        await server.offer({"more": np.zeros(1, np.float32)})
        assert (await waiting.reply()).status == 200
        assert closed(server, "silent") == 1


class TestTooMany:
    async def test_those_who_never_asked_go_first_the_oldest_before_the_others(self, start, connect):
        server = await start(mode="async", most_connections=4)
        served, waiting, first, second = [await connect(server) for _ in range(4)]
        assert await is_served(served)
        await waiting.send(PARKED)
        for going in (first, second):
            newcomer = await connect(server)
            assert await going.closed() == b""
            assert await is_served(newcomer)
            await newcomer.send(HEAD)  # of a later request: it has asked for something
        assert (closed(server, "silent"), closed(server, "idle")) == (2, 0)
        assert await is_served(served)

    async def test_then_the_longest_idle_one(self, start, connect):
        server = await start(mode="async", most_connections=3)
        clients = [await connect(server) for _ in range(3)]
        for index in (0, 1, 2, 0):
            assert await is_served(clients[index])
        for index in (1, 2, 0):
            newcomer = await connect(server)
            assert await clients[index].closed() == b""
            assert await is_served(newcomer)
        assert (closed(server, "silent"), closed(server, "idle")) == (0, 3)
        # And on: those who came then.
        assert await is_served(await connect(server))
        assert closed(server, "idle") == 4

    async def test_who_has_asked_again_since_it_was_looked_is_not_the_longest_idle(self, start, connect):
        server = await start(mode="async", most_connections=3)
        clients = [await connect(server) for _ in range(3)]
        for client in clients:
            assert await is_served(client)
        assert await is_served(await connect(server))
        assert await clients[0].closed() == b""
        assert await is_served(clients[1])
        assert await is_served(await connect(server))
        assert await clients[2].closed() == b""
        assert await is_served(clients[1])

    async def test_where_all_wait_for_an_answer_the_newcomer_is_closed(self, start, connect):
        server = await start(mode="async", most_connections=2)
        await server.offer()
        await server.until(lambda: not server.connections())
        waiting = [await connect(server) for _ in range(2)]
        for client in waiting:
            await client.send(PARKED.replace(b"min_version=9", b"min_version=2"))
        await server.until(lambda: [one.idle_since for one in server.listener.connections] == [None, None])
        assert await (await connect(server)).closed() == b""
        assert closed(server, "full") == 1
        waiting[1].abort()
        await server.until(lambda: len(server.connections()) == 1)
        await server.offer({"more": np.zeros(1, np.float32)})
        assert (await waiting[0].reply()).status == 200

    async def test_an_answer_under_way_to_a_closed_one_arrives(self, start, connect):
        server = await start(mode="async", most_connections=1)
        tensors = {"weight": np.zeros(200_000, np.float32)}
        await server.offer(tensors)
        await server.until(lambda: not server.connections())
        client = await connect(server)
        await client.send_head("GET", "/v1/params", {"Accept": FRAME})
        reply = await client.reply()
        assert len(reply.body) > 800_000
        assert await is_served(await connect(server))
        assert await client.closed() == b""

    async def test_it_is_said_now_and_then(self, start, connect):
        with capture_logs() as logs:
            server = await start(mode="async", most_connections=2)
            for _ in range(6):
                await connect(server)
            await server.until(lambda: closed(server, "silent") == 4)
        told = [row for row in logs if row["event"] == "as many connections as there can be"]
        assert [(row["log_level"], row["connections"], row["times"]) for row in told] == [
            ("warning", 2, times) for times in (1, 2, 4)
        ]
        assert "ulimit -n" in told[0]["detail"]

    async def test_a_lease_does_not_hang_on_an_idle_connection(self, start, connect):
        """A worker whose connection was closed makes its next request on another one."""
        server = await start(mode="async", most_connections=3)
        await server.offer()
        worker = await server.join("w0")
        await worker.pull()
        for _ in range(10):
            assert await is_served(await connect(server))
        assert (await worker.push({"weight": np.ones((4, 3), np.float32)})).status == 200


class TestDescriptors:
    @pytest.mark.parametrize(("limit", "most"), [(64, 32), (200, 100), (1024, 896), (2**20, MAX_CONNECTIONS)])
    def test_some_are_left_for_files(self, monkeypatch, limit, most):
        resource = pytest.importorskip("resource")
        monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
        assert descriptors.most_connections() == most
        monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
        assert descriptors.most_connections() == MAX_CONNECTIONS

    @pytest.mark.parametrize(("soft", "hard"), [(100, 300), (300, 300)])
    def test_the_limit_is_raised_as_far_as_it_goes(self, soft, hard):
        program = (
            f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
            "from leeway.transport import descriptors; descriptors.raise_limit()\n"
            "print(*resource.getrlimit(resource.RLIMIT_NOFILE), descriptors.most_connections())"
        )
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert (done.stdout.split(), done.stderr) == ([str(hard), str(hard), "172"], "")


async def test_a_pause_of_the_server_makes_nobody_silent(server, connect, monkeypatch):
    """Its timers come first when it runs again, before what has arrived meanwhile."""
    monkeypatch.setattr(connection, "MAX_HEAD_SECONDS", 0.2)
    client = await connect(server)
    await server.until(lambda: len(server.connections()) == 1)
    (accepted,) = server.listener.connections
    client.writer.write(HEAD + b"\r\n")
    accepted._head_is_late()
    assert (await client.reply()).status == 200
    await asyncio.sleep(0)
    assert closed(server, "silent") == 0
