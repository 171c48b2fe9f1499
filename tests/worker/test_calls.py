"""Calls that are under way when their client leaves or is closed, and those that are made later."""

import asyncio

import pytest
from aiohttp import web

from leeway.errors import SessionClosed
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.reasons import Reason
from leeway.worker.blocking import BlockingClient
from leeway.worker.calls import Calls
from leeway.worker.client import Client
from leeway.worker.session.states import Ending
from tests.ps.server.serving import serve
from tests.worker.test_groups import BOTH, CONFIGURED, SPECS, offer, parked, tensors

GRADIENT = UpdateKind.GRADIENT
WAITED = "while this call waited; an update that was being pushed may have been applied or not"


class Silent:
    """A request that is not answered; `arrived` is set when it has come."""

    def __init__(self):
        self.arrived = asyncio.Event()

    async def __call__(self, request):
        self.arrived.set()
        while not request.transport.is_closing():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)
        return web.Response()


def left():
    return web.json_response({"rank": "w0"})


async def live(client):
    return [worker["rank"] for worker in (await client.status())["workers"]]


def calls(server):
    """Of a client that computes."""
    return {
        "pull": lambda client: client.pull(),
        "push": lambda client: client.push(GRADIENT, 1, server.tensors()),
        "pushpull": lambda client: client.pushpull(GRADIENT, 1, server.tensors()),
        "skip": lambda client: client.skip(),
        "barrier": lambda client: client.barrier("eval"),
        "status": lambda client: client.status(),
    }


LATER = {
    "join": lambda client: client.join(),
    "leave": lambda client: client.leave(),
    "settle": lambda client: client.settle(),
    "withdraw": lambda client: client.withdraw(),
    "offer": lambda client: client.offer((), lambda layout: []),
}


@pytest.mark.parametrize("call", calls(None))
@pytest.mark.parametrize("end", ["leave", "close"])
async def test_a_call_that_waits_is_told_and_the_worker_leaves_at_once(server, end, call):
    silent = Silent()
    server.then(server.joined(), server.granted(), silent, left())
    client = Client(server.url, "w0")
    await client.join()
    await client.pull()
    task = asyncio.create_task(calls(server)[call](client))
    await silent.arrived.wait()
    async with asyncio.timeout(2.0):
        await getattr(client, end)()
    assert client.conversation.ending is Ending.LEFT
    with pytest.raises(SessionClosed, match=f"^this client {'has left' if end == 'leave' else 'is closed'}, {WAITED}$"):
        await task
    assert server.seen[-1].line == "DELETE /v1/workers/w0"
    if call in ("push", "pushpull", "skip"):
        assert (client.conversation.outcome.disposition, client.conversation.outcome.reason) == (None, Reason.LEFT)
    await client.close()


async def test_a_closed_client_stays_closed(server):
    server.then(server.joined(), left())
    opened = []
    client = Client(server.url, "w0")
    make = client._link._open
    client._link._open = lambda: opened.append(1) or make()
    async with client:
        pass
    for call in (calls(server) | LATER).values():
        with pytest.raises(SessionClosed, match=r"^this client is closed$"):
            await call(client)
    await client.close()
    assert opened == [1]


async def test_one_that_was_never_used_is_closed_too():
    client = Client("http://127.0.0.1:1", "w0")
    await client.close()
    with pytest.raises(SessionClosed, match=r"^this client is closed$"):
        await client.join()


async def test_a_join_that_waits_for_a_server_is_told():
    client = Client("http://127.0.0.1:1", "w0")
    task = asyncio.create_task(client.join())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(SessionClosed, match=WAITED):
        await task


@pytest.mark.parametrize("end", ["leave", "close"])
async def test_parked_pulls_of_several_groups_are_told_and_those_behind_them(end):
    async with serve(workers=2, named_groups=CONFIGURED) as server, Client(server.url, "w1", group="head") as other:
        client = Client(server.url, "w0", groups=BOTH)
        await client.join()
        await offer(client)
        head = client.group("head")
        await asyncio.gather(head.pull(), other.pull())
        waiting = [asyncio.create_task(call) for call in (head.pushpull(GRADIENT, 1, tensors("head")), head.settle())]
        await parked(other, "w0", "head")
        async with asyncio.timeout(2.0):
            await getattr(client, end)()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in errors] == [SessionClosed] * 2
        assert await live(other) == ["w1"]
        await client.close()


async def test_the_exception_of_a_with_block_comes_through_while_a_pull_is_parked():
    async with serve(workers=3, named_groups=CONFIGURED) as server, Client(server.url, "w1", group="head") as other:
        tasks = []

        async def fail():
            async with Client(server.url, "w0", groups=BOTH) as client:
                await offer(client)
                tasks.append(asyncio.create_task(client.group("head").pull()))
                await parked(other, "w0", "head")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        with pytest.raises(SessionClosed, match=WAITED):
            await tasks[0]
        assert await live(other) == ["w1"]


@pytest.mark.parametrize("end", ["leave", "close"])
async def test_a_thread_that_waits_in_its_group_is_told(end):
    async with serve(workers=3, named_groups=CONFIGURED) as server, Client(server.url, "w1", group="head") as other:
        worker = BlockingClient(server.url, "w0", groups=BOTH)
        await asyncio.to_thread(worker.join)
        head = worker.group("head")
        await asyncio.to_thread(head.offer, [SPECS["head"]], lambda layout: tensors("head", 0.0).buffers)
        task = asyncio.create_task(asyncio.to_thread(head.pull))
        await parked(other, "w0", "head")
        async with asyncio.timeout(2.0):
            await asyncio.to_thread(getattr(worker, end))
        with pytest.raises(SessionClosed, match=WAITED):
            await task
        assert await live(other) == ["w1"]
        await asyncio.to_thread(worker.close)


async def test_whoever_leaves_twice_or_closes_meanwhile_is_served():
    async with serve(workers=1, named_groups=CONFIGURED) as server:
        client = Client(server.url, "w0", groups=BOTH)
        await client.join()
        await asyncio.gather(client.leave(), client.leave(), client.close(), client.close())
        assert client.group("head").conversation.ending is Ending.LEFT


async def test_a_call_that_is_cancelled_when_its_client_ends_is_cancelled():
    """What its own task asked for comes first."""
    calls = Calls()
    begun = asyncio.Event()

    async def call():
        async with calls.under_way():
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await begun.wait()
    calls.end("over")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timeout_within_a_call_stays_one():
    calls = Calls()
    with pytest.raises(TimeoutError):
        async with calls.under_way(), asyncio.timeout(0.0):
            await asyncio.Event().wait()


async def test_after_an_end_others_can_begin_and_after_a_close_none():
    calls = Calls()
    calls.end("over")
    async with calls.under_way():
        pass
    calls.close("closed")
    calls.close("again")
    with pytest.raises(SessionClosed, match=r"^closed$"):
        async with calls.under_way():
            pass
