"""A round with a quorum, from workers to the model and back: real sockets, real clients, the machine's own timer."""

import asyncio
import contextlib

import numpy as np
from structlog.testing import capture_logs

from leeway.protocol.pushes import Disposition, UpdateKind
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.transport.channel import Tensors
from leeway.worker.client import Client

SPEC = TensorSpec("w", (4,), "float32", Kind.TRAINABLE)


def gradient(value):
    layout = Layout.of((SPEC,))
    body = np.zeros(layout.nbytes // 4, np.float32)
    body[:4] = value
    return Tensors(layout, [body.data])


async def join(server, stack, *ranks):
    clients = [await stack.enter_async_context(Client(server.url, rank, wait_seconds=5)) for rank in ranks]
    for client in clients:
        await client.offer((SPEC,), lambda layout: [bytes(layout.nbytes)])
    return clients


async def push(client, value):
    return await client.push(UpdateKind.GRADIENT, 1, gradient(value))


async def test_a_round_closes_by_itself_after_its_grace_and_the_last_is_late(start):
    server = await start(mode="sync", workers=3, quorum=2, grace_seconds=0.01, lr=1.0, lease_seconds=86_400.0)
    async with contextlib.AsyncExitStack() as stack:
        w0, w1, w2 = await join(server, stack, "w0", "w1", "w2")
        await asyncio.gather(w0.pull(), w1.pull(), w2.pull())
        assert [(await push(worker, 1.0)).disposition for worker in (w0, w1)] == [Disposition.HELD] * 2
        waiting = asyncio.create_task(w0.pull())
        # Nobody asks for anything more, nothing ticks in this test: the machine's timer closes the round.
        server.clock.now += 1.0
        pulled = await waiting
        assert (pulled.grant.clock, pulled.grant.round) == (1, 1)
        assert np.frombuffer(pulled.frame.body, np.float32)[:4].tolist() == [-1.0] * 4

        with capture_logs() as logs:
            outcome = await push(w2, 100.0)
        assert (outcome.clock, outcome.disposition, w2.conversation.clock) == (0, Disposition.LATE, 2)
        # Once the server, once the worker.
        assert [line["rank"] for line in logs if line["event"] == "late"] == ["w2", "w2"]
        assert server.metric("late_samples_total", group="default") == 1

        # It takes part from the next round on that opens.
        waiting = asyncio.create_task(w2.pull())
        await w1.pull()
        await push(w0, 1.0)
        await push(w1, 1.0)
        server.clock.now += 1.0
        assert (await waiting).grant.round == 2
        assert (await push(w2, 0.0)).disposition is Disposition.HELD


async def test_whose_round_closes_before_it_pulls_goes_on_with_the_next(start):
    server = await start(mode="sync", workers=2, quorum=1, grace_seconds=0.0, lease_seconds=86_400.0)
    async with contextlib.AsyncExitStack() as stack:
        w0, w1 = await join(server, stack, "w0", "w1")
        await w0.pull()
        await push(w0, 1.0)
        await w0.pull()
        waiting = asyncio.create_task(w1.pull())
        await server.until(lambda: server.runtime.machine.groups["default"].clock_of("w1") == 2)
        await push(w0, 1.0)
        pulled = await waiting
        assert (w1.conversation.clock, pulled.grant.clock, pulled.grant.round) == (2, 2, 2)
        assert (await push(w1, 1.0)).disposition is Disposition.HELD
