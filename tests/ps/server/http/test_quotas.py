"""How much each rank and each token may ask for in a second: who asks for more waits, and is told for how long."""

import json

import numpy as np
import pytest

from leeway.protocol.rights import Caller, Right
from leeway.transport.credentials import tokens
from leeway.transport.credentials.tokens import Entry
from leeway.transport.quotas import BURST_SECONDS
from tests.ps.server.serving import serve

TOKENS = {"one": tokens.draw(), "other": tokens.draw()}


def bearer(name):
    return {"Authorization": f"Bearer {TOKENS[name]}"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tokens.toml"
    rights = frozenset({Right.WORKER})
    path.write_text(tokens.written(Entry(Caller(name, rights), tokens.digest(TOKENS[name])) for name in TOKENS))
    path.chmod(0o600)
    return path


async def test_of_each_token(file):
    async with serve(tokens=file, max_requests_per_second=2) as server:
        answered = 0
        while (reply := await server.get("/v1/status", bearer("one"))).status == 200:
            answered += 1
        reply.refused(429, "over-quota", "the token one has asked for more", "ask again in 0.5 s")
        assert answered == 2 * BURST_SECONDS + 1
        assert reply.headers["retry-after"] == "1"
        assert server.metric("refused_total", code="over-quota") == 1
        assert (await server.get("/v1/status", bearer("other"))).status == 200
        server.clock.now += 1
        assert (await server.get("/v1/status", bearer("one"))).status == 200


async def test_of_each_rank_and_heartbeats_get_through():
    async with serve(mode="async", max_requests_per_second=1) as server:
        await server.offer()
        worker = await server.join("w0")
        life = f"epoch={worker.epoch}&incarnation={worker.incarnation}"
        pull = f"/v1/params?rank=w0&{life}&clock=0"
        while (reply := await server.get(pull)).status == 200:
            pass
        reply.refused(429, "over-quota", "rank w0 has asked for more")
        assert (await server.put(f"/v1/workers/w0/lease?{life}")).status == 200
        await server.join("w1")


async def test_bodies_both_ways_are_paid_for_afterwards():
    big = {"w": np.zeros(100_000, np.float32)}
    async with serve(mode="async", max_bytes_per_second=30_000) as server:
        await server.offer(big)
        worker = await server.join("w0")
        await worker.pull()  # 400 kB of 300 kB: it is in debt
        (await worker.push(big)).refused(429, "over-quota", "ask again in 3.")
        server.clock.now += 4
        assert (await worker.push(big)).status == 200
        server.clock.now += 4
        (await worker.push(big)).refused(429, "over-quota")


async def test_a_token_s_body_is_not_read_while_it_is_in_debt(file):
    async with serve(tokens=file, max_bytes_per_second=1024) as server:
        offer = json.dumps({"specs": [["w", "float32", [3], "trainable"]] * 200}).encode()
        for _ in range(3):
            await server.put("/v1/params?ask=1", offer, bearer("one") | {"Content-Type": "application/json"})
        async with server.connect() as connection:
            await connection.send_head("POST", "/v1/updates", bearer("one") | {"Content-Length": str(2**40)})
            (await connection.reply()).refused(429, "over-quota")
