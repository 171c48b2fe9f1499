"""One client that misbehaves, in each way of a list, beside a real `ps-serve`: it is refused, and harms nobody.

What the attackers do stands in `tests/bench/attackers.py`: `make bench` measures an honest worker beside each of them.
"""

import asyncio
import contextlib
import re
import socket
from pathlib import Path

import numpy as np
import pytest

from leeway.protocol.limits import MAX_METRIC_NAMES
from leeway.transport import descriptors
from tests.bench import attackers
from tests.bench.attackers import ATTACKS, MOST_LEFT_OPEN, SMUGGLED, STRANGE_TARGETS, Campaign, head
from tests.ps.server.rawclient import FRAME, Worker
from tests.ps.server.test_lifecycle import run as run

MIB = 2**20
# Of buffers, caches and connections that are being closed. A bomb has 50 MB, a model none to speak of.
ROOM_BYTES = 48 * MIB
GRADIENT = {"weight": np.ones(1024, np.float32)}


@pytest.fixture
async def server(run):
    server = await run("--mode", "async", "--lease", "5", "--lr", "0.001")
    await server.offer({"weight": np.zeros(1024, np.float32)})
    return server


def resident_bytes(server):
    fields = Path(f"/proc/{server.process.pid}/statm").read_text().split()
    return int(fields[1]) * 4096


async def ranks(server):
    return {row["rank"] for row in (await server.get("/v1/status")).json["workers"]}


async def test_no_request_is_hidden_in_another(server):
    campaign = Campaign(server.host, server.port)
    for name, data in SMUGGLED.items():
        got = await campaign.once(data)
        assert [status for status, _ in got] in ([], [400], [200]), (name, got)
        # Where a body is taken as one, it is not taken as the next request too.
        assert (got[:1] == [] or got[0][0] == 400) or name == "a GET with a body", name
        async with server.connect() as connection:
            await connection.send(data)
            said = await asyncio.wait_for(connection.reader.read(65_536), 20)
            assert said.count(b"HTTP/1.1 ") <= 1, name
    assert await ranks(server) == set()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_no_name_leads_anywhere_else(server, method):
    for target in STRANGE_TARGETS:
        async with server.connect() as connection:
            await connection.send(head(method, target, "Content-Length: 0"))
            reply = await connection.reply()
        assert reply.status in (200, 204, 400, 404, 405, 415, 422), (target, reply)
        assert b"root:" not in reply.body
        if reply.status == 200:
            assert target.startswith("/v1/params?"), target
    assert await ranks(server) == set()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="how large another process is, Linux alone tells")
async def test_an_honest_worker_beside_all_of_them(server):
    """Memory stays, heartbeats and updates get through, and nobody learns or keeps more than there is room for."""
    worker = await Worker(server, "honest").join()
    life = f"epoch={worker.epoch}&incarnation={worker.incarnation}"
    await worker.step(GRADIENT)
    campaigns = {name: Campaign(server.host, server.port) for name in ATTACKS if name != "connections"}
    before = resident_bytes(server)
    for name, campaign in campaigns.items():
        task = asyncio.ensure_future(ATTACKS[name].act(campaign))
        for _ in range(5):
            await worker.step(GRADIENT)
            assert (await server.request("PUT", f"/v1/workers/honest/lease?{life}")).status == 200, name
            await asyncio.sleep(0.1)  # not to wait for anything: so long it is attacked
        assert not task.done(), (name, task)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert campaign.sent, name
        grown = resident_bytes(server) - before
        assert grown < ROOM_BYTES, f"{name} made the server larger by {grown / MIB:.0f} MiB"
    page = (await server.get("/metrics")).body.decode()
    assert len(set(re.findall(r'leeway_server_reported\S*{.*?metric="([^"]*)"', page))) <= MAX_METRIC_NAMES
    # No label of any metric is what somebody asked for.
    assert "passwd" not in page
    assert "%2e" not in page
    server.process.terminate()
    code, said = await server.ended()
    assert code == 0
    assert "Traceback" not in said


async def test_ten_thousand_connections_that_are_left(server):
    descriptors.raise_limit()
    resource = pytest.importorskip("resource")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MOST_LEFT_OPEN + 200:
        pytest.skip(f"{soft} open files are allowed here, and this needs {MOST_LEFT_OPEN + 200}: ulimit -n")
    worker = await Worker(server, "honest").join()
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for number in range(MOST_LEFT_OPEN):
            made = stack.enter_context(socket.socket())
            made.setblocking(False)
            await loop.sock_connect(made, (server.host, server.port))
            if number % 2000 == 1999:
                await worker.step(GRADIENT)
        await worker.step(GRADIENT)
        assert (await server.get("/livez")).status == 200
    assert (await server.get("/livez")).status == 200


async def test_a_body_beyond_the_limit_that_comes_all_the_same_is_not_kept(server):
    campaign = Campaign(server.host, server.port)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await attackers.large_bodies(campaign)
    assert set(campaign.answers) == {413}
    reply = await server.get("/v1/params", {"Accept": FRAME})
    assert reply.status == 200
