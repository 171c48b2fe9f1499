"""A call that is cancelled leaves a client that can be used, and no update is lost or doubled by it."""

import asyncio

import pytest
from aiohttp import web

from leeway.protocol.pushes import Disposition, UpdateKind
from leeway.worker.client import Client

GRADIENT = UpdateKind.GRADIENT


class Held:
    """A request that is not answered before it is let go."""

    def __init__(self):
        self.arrived = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, request):
        self.arrived.set()
        await self.let_go.wait()
        return web.Response(status=500)


@pytest.fixture
async def held():
    held = Held()
    yield held
    held.let_go.set()


@pytest.fixture
async def client(server):
    server.then(server.joined(), server.granted())
    client = Client(server.url, "w0")
    await client.join()
    await client.pull()
    yield client
    server.then(web.json_response({"rank": "w0"}))
    await client.close()


async def cancelled(call, held):
    task = asyncio.create_task(call)
    await held.arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_pull_can_be_asked_again(server, client, held):
    server.then(held, server.granted(0, 3, 3.0))
    await cancelled(client.pull(), held)
    assert server.value_of((await client.pull()).frame) == 3.0


async def test_a_cancelled_push_is_seen_to_its_end_by_the_next_call(server, client, held):
    server.then(held, server.pushed(0), server.granted(1, 2))
    await cancelled(client.push(GRADIENT, 1, server.tensors(0.5)), held)
    assert client.conversation.in_hand
    pulled = await client.pull()
    assert pulled.grant.clock == 1
    assert client.conversation.outcome.disposition is Disposition.APPLIED
    first, second = [seen for seen in server.seen if seen.line == "POST /v1/updates"]
    assert first.body == second.body


async def test_a_cancelled_pushpull_is_seen_to_its_end_before_the_next_update(server, client, held):
    server.then(held, server.pushpulled(0), server.pushed(1))
    await cancelled(client.pushpull(GRADIENT, 1, server.tensors(0.5)), held)
    assert (await client.settle()).clock == 0
    assert (await client.push(GRADIENT, 1, server.tensors(0.25))).clock == 1
    assert [server.value_of(seen.frame) for seen in server.seen[-3:]] == [0.5, 0.5, 0.25]


async def test_a_cancelled_barrier(server, client, held):
    server.then(held, web.json_response({"name": "eval", "generation": 0}))
    await cancelled(client.barrier("eval"), held)
    await client.barrier("eval")
    assert [seen.json["generation"] for seen in server.seen[-2:]] == [0, 0]


async def test_a_call_waits_for_the_one_that_is_being_cancelled(server, client, held):
    server.then(held)
    task = asyncio.create_task(client.pull())
    await held.arrived.wait()
    task.cancel()
    await client.settle()
    assert task.done()
