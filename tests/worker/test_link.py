"""What no conversation asks for is waited out like everything else: the optimizer's settings, read and set."""

import asyncio

import pytest
from aiohttp import web
from structlog.testing import capture_logs

import leeway
from leeway.errors import ServerLost, SessionClosed, WireError
from leeway.worker.client import Client
from leeway.worker.session import backoff
from tests.worker.test_against_server import serving

SETTINGS = {"group": "default", "kind": "sgd", "lr": 0.5}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.001)


@pytest.fixture
def patience_seconds():
    return 300.0


@pytest.fixture
async def client(server, patience_seconds):
    server.then(server.joined())
    client = Client(server.url, "w0", patience_seconds=patience_seconds, silence_seconds=0.2)
    await client.join()
    yield client
    server.then(web.json_response({"rank": "w0"}))
    await client.close()


async def read(client):
    return await client.optimizer()


async def write(client):
    await client.set_optimizer({"lr": 0.5})


both = pytest.mark.parametrize("call", [read, write])


@both
async def test_a_server_that_goes_away_and_comes_back(server, client, call):
    server.then(server.break_off, server.refused("stopping"), server.break_off, web.json_response(SETTINGS))
    with capture_logs() as logs:
        found = await call(client)
    assert found == (SETTINGS if call is read else None)
    assert [row["event"] for row in logs] == ["server is away", "server is back"]
    assert client.sent_again >= 1  # aiohttp itself sends such a request once more


@both
async def test_one_that_takes_the_request_and_is_silent(server, client, call):
    async def hang(request):
        while not request.transport.is_closing():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)
        return web.Response()

    server.then(hang, web.json_response(SETTINGS))
    assert await call(client) == (SETTINGS if call is read else None)
    assert client.sent_again == 1


class TestOneThatStaysAway:
    @pytest.fixture
    def patience_seconds(self):
        return 0.0

    @both
    async def test_is_lost_when_patience_is_over(self, server, client, call):
        server.then(server.refused("stopping"), server.refused("stopping"))
        with pytest.raises(ServerLost, match="has been away for more than 0 s"):
            await call(client)


@both
async def test_a_refusal_that_will_not_pass_is_told_at_once(server, client, call):
    server.then(server.refused("unknown-group", "there is no such group"))
    with pytest.raises(WireError, match="there is no such group"):
        await call(client)
    assert client.sent_again == 0


async def test_a_closed_client_asks_nothing(server):
    server.then(server.joined(), web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0") as client:
        pass
    with pytest.raises(SessionClosed):
        await client.optimizer()


@pytest.mark.e2e
def test_a_server_that_is_started_again(tmp_path):
    flags = ("--state-dir", str(tmp_path), "--lr", "0.25")
    with serving(*flags) as (process, url), leeway.connect(url, "w0") as session:
        assert session.server_optimizer()["lr"] == 0.25
        process.kill()
        process.wait()
        with serving(*flags, port=int(url.rpartition(":")[2])):
            assert session.server_optimizer()["lr"] == 0.25
            session.set_learning_rate(0.125)
            assert session.server_optimizer()["lr"] == 0.125
