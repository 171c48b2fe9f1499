"""Training over a second transport: the mapping, the runtime and the client know nothing of sockets."""

import asyncio
import itertools

import aiohttp
import numpy as np
import pytest

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.membership import Heartbeat
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pushes import Disposition, UpdateKind
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.tuning import SetOptimizer, SetPolicy
from leeway.ps.settings.config import ServerConfig
from leeway.transport.channel import Tensors
from leeway.worker.client import Client
from leeway.worker.session import backoff
from tests.memory_channel import Loss, MemoryChannel
from tests.ps.server.serving import built

W = TensorSpec("w", (1024,), "float32", Kind.TRAINABLE)
LAYOUT = Layout.of([W])
STEPS = 6
LR = 0.25
TARGET = 3.0


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("nothing is to be connected")

    monkeypatch.setattr(aiohttp, "ClientSession", fail)
    monkeypatch.setattr(aiohttp, "TCPConnector", fail)
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.001)


def body(value):
    return [np.full(LAYOUT.nbytes // 4, value, np.float32).view(np.uint8).data]


def value_of(frame):
    (value,) = set(np.frombuffer(frame.tensor("w"), np.float32).tolist())
    return value


async def train(runtime, rank, losing=lambda request: Loss.NOTHING):
    """Each worker moves w towards its target; returns the values that were pulled, and the ends of the updates."""
    async with Client("http://nowhere", rank, channel=lambda: MemoryChannel(runtime, losing)) as client:
        await client.offer([W], lambda layout: body(0.0), whole=True)
        await client.barrier("start", 2)
        pulled = await client.pull()
        values, outcomes = [], []
        while pulled:
            values.append(value_of(pulled.frame))
            gradient = Tensors(LAYOUT, body(values[-1] - TARGET))
            outcome, pulled = await client.pushpull(UpdateKind.GRADIENT, 32, gradient, {"loss": 1.0})
            outcomes.append(outcome)
    return values, outcomes


def losing_every(number):
    """Of every so many exchanges one loses its request, and the one after it its reply."""
    count = itertools.count(1)

    def losing(request):
        if isinstance(request, Heartbeat):
            return Loss.NOTHING
        return {0: Loss.REQUEST, 1: Loss.REPLY}.get(next(count) % number, Loss.NOTHING)

    return losing


@pytest.mark.parametrize("number", [10**9, 5, 3])
async def test_two_workers_train_to_the_same_values_whatever_is_lost(number):
    config = ServerConfig(port=0, mode="sync", workers=2, optimizer="sgd", lr=LR, until=STEPS)
    async with built(config) as (runtime, _, _):
        ends = await asyncio.gather(*(train(runtime, rank, losing_every(number)) for rank in ("w0", "w1")))
        assert runtime.parameters["default"].versions.current.number == STEPS + 1
    expected = [0.0]
    for _ in range(STEPS - 1):
        expected.append(expected[-1] - LR * (expected[-1] - TARGET))
    for values, outcomes in ends:
        assert values == pytest.approx(expected)
        assert [outcome.clock for outcome in outcomes] == list(range(STEPS))
        assert {outcome.disposition for outcome in outcomes} <= {Disposition.HELD, Disposition.APPLIED}


async def test_refusals_come_through():
    async with (
        built(ServerConfig(port=0, mode="async")) as (runtime, _, _),
        Client("http://nowhere", "w0", channel=lambda: MemoryChannel(runtime)) as client,
    ):
        await client.offer([W], lambda layout: body(0.0))
        await client.pull()
        other = Layout.of([TensorSpec("v", (1024,), "float32", Kind.TRAINABLE)])
        with pytest.raises(WireError) as refused:
            await client.push(UpdateKind.GRADIENT, 32, Tensors(other, body(1.0)))
        assert refused.value.code is Code.UNKNOWN_TENSOR
        assert (await client.push(UpdateKind.GRADIENT, 32, Tensors(LAYOUT, body(1.0)))).version == 2


async def test_the_run_can_be_changed():
    async with built(ServerConfig(port=0, mode="async")) as (runtime, _, _):
        channel = MemoryChannel(runtime)
        policy = (await channel.send(SetPolicy(PolicyTerms("ssp", 3)))).reply
        assert policy.terms == PolicyTerms("ssp", 3)
        optimizer = (await channel.send(SetOptimizer("default", {"lr": 0.5}))).reply
        assert optimizer.settings["lr"] == 0.5
        assert optimizer.settings["learning_rate"] == 0.5
        refused = (await channel.send(SetOptimizer("nobody", {"lr": 0.5}))).reply
        assert refused.error.code is Code.UNKNOWN_GROUP
