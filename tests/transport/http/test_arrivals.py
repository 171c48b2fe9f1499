"""Who connects to a listener with TLS and says nothing is one of the crowd, under both loops."""

import asyncio
import urllib.request

import pytest
import uvloop
from aiohttp import web

from leeway.protocol import routes
from leeway.transport.credentials import tls
from leeway.transport.http.listener import Listener
from tests.transport.credentials.clusters import Keys

MOST = 5


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys") / "cluster")


async def ok(_):
    return web.json_response({"ok": True})


def ask(url, keys):
    """On a connection of its own, whose first bytes come at once."""
    context = keys.credentials("w0").to_client()
    with urllib.request.urlopen(url + routes.STATUS, timeout=5, context=context) as reply:
        return reply.status


async def crowded(keys):
    context = tls.for_listener(keys.pair("server"))
    listener = Listener([web.get(routes.STATUS, ok)], lease_seconds=10, tls=context, most_connections=MOST)
    url = await listener.start("127.0.0.1", 0)
    port = int(url.rpartition(":")[2])
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4 * MOST)]
    answers = [await asyncio.to_thread(ask, url, keys) for _ in range(20)]
    # The first to come were the first to go, long before the time for a handshake was over.
    async with asyncio.timeout(5):
        for reader, _ in silent[: 3 * MOST]:
            assert await gone(reader)
        await listener.stop()
        for reader, writer in silent:
            assert await gone(reader)
            writer.close()
    return answers


async def gone(reader):
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_the_silent_make_room_for_those_who_ask(run, keys):
    assert run(crowded(keys)) == [200] * 20
