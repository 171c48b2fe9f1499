"""Whoever has the shared ground can listen and ask: a worker that answers, a server that is the client of another."""

import asyncio
import contextlib
from dataclasses import replace

import numpy as np
import pytest

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.limits import DEFAULT_MAX_BODY_BYTES
from leeway.protocol.lives import Life
from leeway.protocol.pulls import Granted, Pull
from leeway.protocol.pushes import Disposition, Push, Pushed, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.versions import Version
from leeway.transport.channel import Tensors
from leeway.transport.http.exchange import Exchange
from leeway.transport.http.listener import Listener
from leeway.transport.http.messages import Messages, Outgoing
from leeway.transport.memory.pool import Pool
from tests.ps.server.serving import MODEL, serve

LAYOUT = Layout.of([TensorSpec("weight", (1000, 100), "float32", Kind.TRAINABLE)])
PUSH = Push(Life("w0", 7, 1), clock=0, version=3, kind=UpdateKind.GRADIENT, samples=8, keys=("weight",))


class Peer:
    """Holds one tensor, and adds to it what it is pushed."""

    def __init__(self):
        self.weight = np.arange(100_000, dtype=np.float32)
        self.version = Version(7, 3)
        self.connections = []

    async def answer(self, message, frame, connection):
        self.connections.append(connection)
        match message:
            case Pull():
                body = memoryview(self.weight).toreadonly().cast("B")
                return Outgoing(Granted(self.version, Reason.GRANTED), LAYOUT, [body])
            case Push(clock=clock):
                self.weight = self.weight + np.frombuffer(frame.body, np.float32)
                self.version = replace(self.version, number=self.version.number + 1)
                pushed = Pushed(clock, Disposition.APPLIED, Reason.GRANTED, version=self.version.number, staleness=0)
                return Outgoing(pushed)
        raise WireError(Code.NOT_FOUND, f"no {message} here")


class Counted:
    """What is counted, as a list."""

    def __init__(self):
        self.all = []

    def __getattr__(self, name):
        return lambda *facts: self.all.append((name, *facts))


@contextlib.asynccontextmanager
async def listening(peer, counts=None, max_body_bytes=DEFAULT_MAX_BODY_BYTES):
    messages = Messages(peer.answer, max_body_bytes=max_body_bytes, allocate=Pool().take, counts=counts)
    listener = Listener(messages.routes(), lease_seconds=10.0, counts=counts)
    url = await listener.start("127.0.0.1", 0)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(listener.stop)
        exchange = Exchange(url)
        stack.push_async_callback(exchange.close)
        yield exchange


def received(answer):
    return np.frombuffer(answer.frame.tensor("weight"), np.float32)


async def test_a_worker_can_listen():
    peer = Peer()
    async with listening(peer) as exchange:
        pulled = await exchange.send(Pull())
        assert pulled.reply == Granted(Version(7, 3), Reason.GRANTED)
        assert (received(pulled) == np.arange(100_000)).all()
        update = Tensors(LAYOUT, [memoryview(np.ones(100_000, np.float32)).cast("B")])
        pushed = await exchange.send(PUSH, update)
        assert pulled.frame.specs == tuple(place.spec for place in LAYOUT.places.values())
        assert pushed.reply == Pushed(0, Disposition.APPLIED, Reason.GRANTED, version=4, staleness=0)
        assert (received(await exchange.send(Pull())) == np.arange(100_000) + 1).all()
    assert all(isinstance(connection, asyncio.Transport) for connection in peer.connections)


async def test_what_it_refuses_is_a_refusal_to_the_asker_and_is_counted():
    counts = Counted()
    async with listening(Peer(), counts, max_body_bytes=1000) as exchange:
        update = Tensors(LAYOUT, [bytes(LAYOUT.nbytes)])
        large = await exchange.send(PUSH, update)
        assert isinstance(large.reply, Refused)
        assert large.reply.error.code is Code.BODY_TOO_LARGE
        with pytest.raises(WireError, match="there is nothing at '/v1/status'"):
            await exchange.read_json("/v1/status", {})
    assert [row[1:] for row in counts.all if row[0] == "refused"] == [
        ("/v1/updates", Code.BODY_TOO_LARGE),
        ("unknown", Code.NOT_FOUND),
    ]
    assert [row[1:4] for row in counts.all if row[0] == "answered"] == [
        ("/v1/updates", "POST", 413),
        ("unknown", "GET", 404),
    ]


async def test_a_server_can_be_the_client_of_another():
    async with serve(mode="async") as above, serve(mode="async") as below:
        await above.offer(MODEL)
        exchange = Exchange(above.url)
        pulling = below.runtime.background.start("pulling from above", exchange.send(Pull(), allocate=below.pool.take))
        answer = await pulling
        await exchange.close()
        assert answer.reply.version == Version(above.runtime.machine.epoch, 1)
        assert {spec.name for spec in answer.frame.specs} == MODEL.keys()
        assert bytes(answer.frame.tensor("weight")) == MODEL["weight"].tobytes()
        assert below.runtime.not_ready_because() is not None, "what it holds itself is another matter"
