"""Who has no token learns nothing, changes nothing, costs little, and is the first to go."""

import asyncio
import json

import numpy as np
import pytest

from leeway.protocol import limits
from leeway.protocol.rights import NEEDED, Caller, Right
from leeway.transport.credentials import tokens
from leeway.transport.credentials.tokens import Entry
from leeway.transport.http import pace
from tests.bench.attackers import SMUGGLED, STRANGE_TARGETS, head
from tests.ps.server.rawclient import FRAME, frame
from tests.ps.server.serving import MODEL, Server, serve

TOKEN = tokens.draw()
KNOWN = {"Authorization": f"Bearer {TOKEN}"}


class Known(Server):
    """What the test itself asks is asked with the token."""

    async def request(self, method, target, body=None, headers=None):
        return await super().request(method, target, body, KNOWN | (headers or {}))


@pytest.fixture
async def start(tmp_path):
    path = tmp_path / "tokens.toml"
    path.touch(0o600)
    caller = Caller("boss", frozenset({Right.ADMIN, Right.WORKER}))
    path.write_text(tokens.written([Entry(caller, tokens.digest(TOKEN))]))

    def start(**settings):
        return serve(mode="async", tokens=path, **settings)

    return start


@pytest.fixture
async def server(start):
    async with start() as server:
        server.__class__ = Known
        await server.offer()
        worker = await server.join("w0")
        await worker.step({name: np.ones_like(array) for name, array in MODEL.items()})
        yield server


def shown(reply):
    headers = {name: value for name, value in reply.headers.items() if name != "date"}
    return reply.status, headers, reply.body


def filled(route, rank):
    return route.replace("{rank}", rank).replace("{name}", rank).replace("{file}", "page.js")


@pytest.mark.parametrize("credentials", [{}, {"Authorization": "Bearer made-up"}], ids=["none", "made up"])
async def test_the_answer_is_the_same_for_what_is_there_and_what_is_not(server, credentials):
    async def ask(method, target, body=b"{}"):
        async with server.connect() as connection:
            return await connection.request(method, target, body, dict(credentials))

    async with server.untouched():
        for method, route in NEEDED:
            if NEEDED[method, route] is None:
                continue
            first, second = [shown(await ask(method, filled(route, rank))) for rank in ("w0", "nobody")]
            assert first == second, (method, route)
            assert first[0] == 401
        for one, other in [
            ("/v1/params?group=default", "/v1/params?group=none"),
            ("/v1/params?keys=weight", "/v1/params?keys=none"),
            ("/v1/params?min_version=1", "/v1/params?min_version=99"),
            ("/v1/workers/w0/lease?epoch=1&incarnation=1", "/v1/nowhere"),
            ("/v1/checkpoints", "/v1/checkpoints/none"),
        ]:
            assert shown(await ask("GET", one)) == shown(await ask("GET", other)), one


async def test_nothing_that_is_sent_changes_anything(server):
    life = {"rank": "w0", "epoch": 1, "incarnation": 1}
    body = frame({**life, "clock": 1, "version": 2, "kind": "gradient", "samples": 1}, MODEL)
    sent = [*SMUGGLED.values(), *(head("POST", target) for target in STRANGE_TARGETS)]
    for method, route in NEEDED:
        for content, kind in ((b'{"rank": "w9", "session": "s", "mode": "sync"}', "application/json"), (body, FRAME)):
            headers = (f"Content-Length: {len(content)}", f"Content-Type: {kind}")
            sent.append(head(method, filled(route, "w0"), *headers) + content)
    async with server.untouched():
        for data in sent:
            async with server.connect() as connection:
                await connection.send(data)
                answers = await asyncio.wait_for(connection.reader.read(65_536), 20)
                assert b" 500 " not in answers.partition(b"\r\n")[0], data
    assert not server.runtime.askers


async def test_one_answer_and_the_body_is_not_read(server):
    async with server.connect() as connection:
        await connection.send(head("POST", "/v1/updates", f"Content-Length: {2**30}", f"Content-Type: {FRAME}"))
        reply = await connection.reply()
        reply.refused(401, "unauthenticated")
        assert reply.headers["connection"] == "close"
        received = server.metric("received_bytes_total", route="/v1/updates")
        with pytest.raises(ConnectionError):
            await _send_on(connection)
        assert server.metric("received_bytes_total", route="/v1/updates") - received < 2**20
    assert server.pool.lent_bytes == 0


async def _send_on(connection):
    async with asyncio.timeout(20):
        while True:
            await connection.send(bytes(2**20))


@pytest.mark.parametrize("target", ["/v1/status", "/livez", "/openapi.yaml"])
async def test_a_stranger_asks_once_on_a_connection(server, target):
    async with server.connect() as connection:
        await connection.send(head("GET", target) * 3)
        reply = await connection.reply()
        assert reply.headers["connection"] == "close"
        assert await connection.closed() == b""
    async with server.connect() as connection:
        for _ in range(3):
            assert (await connection.request("GET", target, headers=KNOWN)).status == 200


async def test_what_there_is_to_be_ready_for_is_not_told(start):
    async with start() as server:
        assert (await server.get("/readyz")).json == {"ready": False, "detail": "not ready"}
        assert "default" in (await server.get("/readyz", KNOWN)).json["detail"]


async def test_strangers_are_the_first_to_go(start):
    async with start(most_connections=3) as server, server.connect() as first, server.connect() as second:
        for known in (first, second):
            assert (await known.request("GET", "/livez", headers=KNOWN)).status == 200
        for _ in range(5):
            async with server.connect() as stranger, server.connect() as other:
                await other.send(b"GET /li")
                await stranger.send(b"GET /li")
                await server.until(lambda: len(server.connections()) == 3)
                for known in (first, second):
                    assert (await known.request("GET", "/livez", headers=KNOWN)).status == 200
            await server.until(lambda: len(server.connections()) == 2)
        assert server.metric("connections_closed_total", reason="idle") == 0


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "//", "\x7f"])
async def test_an_origin_that_is_no_address(origin):
    async with serve(lr=1.0) as server:
        async with server.connect() as connection:
            reply = await connection.request("GET", "/v1/status", headers={"Origin": origin})
        assert reply.status in (400, 403), reply


async def test_a_login_is_small(server):
    body = json.dumps({"token": "x" * limits.MAX_CONTROL_BYTES}).encode()
    async with server.connect() as connection:
        (await connection.request("POST", "/v1/session", body)).refused(413, "body-too-large")


class TestSlowBodies:
    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch):
        monkeypatch.setattr(pace, "MAX_BODY_WINDOW_SECONDS", 0.2)
        monkeypatch.setattr(pace, "MIN_BODY_WINDOW_BYTES", 1000)

    @pytest.mark.parametrize("target", ["/v1/session", "/v1/updates", "/v1/workers"])
    async def test_a_byte_now_and_then_is_not_enough(self, server, target):
        credentials = {} if target == "/v1/session" else KNOWN
        headers = {"Content-Length": 50_000, "Content-Type": FRAME if target == "/v1/updates" else "application/json"}
        async with server.untouched(), server.connect() as connection:
            await connection.send_head("POST", target, credentials | headers)
            await connection.send(b"LWAY" if target == "/v1/updates" else b"{")
            assert await connection.closed() == b""
        assert server.metric("connections_closed_total", reason="slow") == 1
        assert server.pool.lent_bytes == 0

    async def test_what_comes_steadily_may_take_longer(self, server):
        body = json.dumps({"rank": "w1", "session": "s", "capabilities": {"a": "x" * 6000}}).encode()
        loop = asyncio.get_running_loop()
        async with server.connect() as connection:
            await connection.send_head("POST", "/v1/workers", KNOWN | {"Content-Length": len(body)})
            began = loop.time()
            for at in range(0, len(body), 500):
                await connection.send(body[at : at + 500])
                await asyncio.sleep(0.05)  # slowly, which is what is tested
            assert loop.time() - began > 0.5
            assert (await connection.reply()).status == 200
