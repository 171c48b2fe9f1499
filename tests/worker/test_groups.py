"""One worker in two groups of unlike policy: calls under way together, clocks of their own, one life."""

import asyncio
import random
import re

import numpy as np
import pytest

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.membership import Joined, Leave
from leeway.protocol.pushes import Disposition, UpdateKind
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.settings.config import GroupConfig
from leeway.transport.channel import Tensors
from leeway.transport.failures import Lost
from leeway.transport.http.exchange import Exchange
from leeway.worker.blocking import BlockingClient
from leeway.worker.client import Client
from leeway.worker.session import backoff
from leeway.worker.session.states import Ending
from tests.ps.server.serving import serve
from tests.worker.test_against_server import serving

BOTH = ("embedding", "head")
GRADIENT = UpdateKind.GRADIENT
SPECS = {group: TensorSpec(f"{group}.weight", (4,), "float32", Kind.TRAINABLE) for group in BOTH}

CONFIGURATION = """
[group.embedding]
keys = ["embedding.*"]
mode = "async"
optimizer = "sgd"
lr = 1.0

[group.head]
keys = ["head.*"]
mode = "sync"
optimizer = "sgd"
lr = 1.0
"""


CONFIGURED = (
    GroupConfig(name="embedding", keys=("embedding.*",), mode="async", lr=1.0),
    GroupConfig(name="head", keys=("head.*",), mode="sync", lr=1.0),
)


def tensors(group, value=1.0):
    layout = Layout.of([SPECS[group]])
    body = np.zeros(layout.nbytes // 4, np.float32)
    body[:4] = value
    return Tensors(layout, [body.view(np.uint8).data])


def value_of(pulled, group):
    (value,) = set(np.frombuffer(pulled.frame.tensor(f"{group}.weight"), np.float32).tolist())
    return value


async def offer(client):
    """Both groups' values, zeros, at once."""
    calls = (
        client.group(group).offer([SPECS[group]], lambda layout, group=group: tensors(group, 0.0).buffers)
        for group in BOTH
    )
    await asyncio.gather(*calls)


@pytest.fixture
def configuration(tmp_path):
    path = tmp_path / "leeway.toml"
    path.write_text(CONFIGURATION)
    return str(path)


async def parked(client, rank, group):
    """Return when the server has the pull of this worker in its waiting room."""
    while True:
        (worker,) = [worker for worker in (await client.status())["workers"] if worker["rank"] == rank]
        if worker["groups"][group]["state"] == "waiting":
            return
        await asyncio.sleep(0.005)


class Counting(Exchange):
    """`joins`: how many have been answered with a life."""

    joins = 0

    async def send(self, request, *more, **options):
        answer = await super().send(request, *more, **options)
        self.joins += isinstance(answer.reply, Joined)
        return answer


async def test_one_group_goes_on_while_the_other_waits():
    async with serve(workers=2, named_groups=CONFIGURED) as server:
        async with Client(server.url, "w0", groups=BOTH) as fast, Client(server.url, "w1", groups=BOTH) as slow:
            await asyncio.gather(offer(fast), offer(slow))
            embedding, head = (fast.group(name) for name in BOTH)
            assert (embedding.conversation.policy, head.conversation.policy) == ("async", "sync")
            assert embedding.conversation.life is head.conversation.life
            rows, weights = await asyncio.gather(embedding.pull(), head.pull())
            assert (value_of(rows, "embedding"), value_of(weights, "head")) == (0.0, 0.0)
            await slow.group("head").pull()

            # The head's push is under way until the round closes; the embedding makes three iterations meanwhile.
            round_of_head = asyncio.create_task(head.pushpull(GRADIENT, 8, tensors("head", 2.0)))
            await parked(fast, "w0", "head")
            for clock in range(3):
                outcome, rows = await embedding.pushpull(GRADIENT, 8, tensors("embedding"))
                assert (outcome.clock, outcome.disposition) == (clock, Disposition.APPLIED)
                assert value_of(rows, "embedding") == -(clock + 1.0)
            assert not round_of_head.done()
            assert (embedding.conversation.clock, head.conversation.clock) == (3, 0)

            await slow.group("head").push(GRADIENT, 8, tensors("head", 4.0))
            outcome, weights = await round_of_head
            assert (outcome.disposition, value_of(weights, "head")) == (Disposition.HELD, -3.0)
            assert (embedding.conversation.clock, head.conversation.clock) == (3, 1)
            assert value_of(rows, "embedding") == -3.0, "each group has memory of its own"
        assert fast.group("head").conversation.ending is Ending.LEFT


async def test_pushes_of_both_groups_in_many_iterations():
    async with serve(workers=1, named_groups=CONFIGURED) as server, Client(server.url, "w0", groups=BOTH) as client:
        await offer(client)

        async def train(group, iterations):
            applied = 0
            pulled = await client.group(group).pull()
            for _ in range(iterations):
                assert value_of(pulled, group) == -float(applied)
                outcome, pulled = await client.group(group).pushpull(GRADIENT, 1, tensors(group))
                applied += not outcome.dropped
            return applied

        assert await asyncio.gather(train("embedding", 30), train("head", 20)) == [30, 20]
        versions = {name: group["version"] for name, group in (await client.status())["groups"].items()}
        assert (versions["embedding"], versions["head"]) == (31, 21)
        await client.barrier("end")


@pytest.mark.parametrize("groups", [BOTH, ("head",)])
async def test_a_barrier_waits_for_no_pull(groups):
    """The pull of the next iteration waits for the other worker, which comes to the barrier first."""
    async with (
        serve(workers=2, named_groups=CONFIGURED) as server,
        Client(server.url, "w0", groups=groups) as first,
        Client(server.url, "w1", groups=groups) as second,
    ):
        for client in (first, second):
            await client.group("head").offer([SPECS["head"]], lambda layout: tensors("head", 0.0).buffers)
        ours, theirs = (client.group("head") for client in (first, second))
        await asyncio.gather(ours.pull(), theirs.pull())
        round_of_head = asyncio.create_task(ours.pushpull(GRADIENT, 1, tensors("head", 2.0)))
        await parked(second, "w0", "head")
        async with asyncio.timeout(10.0):
            await asyncio.gather(first.barrier("x", 2), second.barrier("x", 2))
        assert not round_of_head.done()
        assert not ours.conversation.in_hand, "the update was seen to its end before"
        await asyncio.gather(first.barrier("x", 2), second.barrier("x", 2))
        await theirs.push(GRADIENT, 1, tensors("head", 4.0))
        outcome, weights = await round_of_head
        assert (outcome.disposition, value_of(weights, "head")) == (Disposition.HELD, -3.0)


async def test_a_barrier_sees_an_update_to_its_end_that_a_cancelled_call_has_left():
    async with (
        serve(workers=2, named_groups=CONFIGURED) as server,
        Client(server.url, "w0", group="head") as first,
        Client(server.url, "w1", group="head") as second,
    ):
        for client in (first, second):
            await client.offer([SPECS["head"]], lambda layout: tensors("head", 0.0).buffers)
        await asyncio.gather(first.pull(), second.pull())
        task = asyncio.create_task(first.pushpull(GRADIENT, 1, tensors("head", 2.0)))
        await parked(second, "w0", "head")
        task.cancel()
        async with asyncio.timeout(10.0):
            await asyncio.gather(first.barrier("x", 2), second.barrier("x", 2))
        assert first.conversation.outcome.disposition is Disposition.HELD


async def test_a_life_that_somebody_has_ended_is_told_at_a_barrier_and_in_a_pull():
    async with serve(workers=2, named_groups=CONFIGURED) as server:
        client = Client(server.url, "w0", group="head")
        await client.join()
        await client.offer([SPECS["head"]], lambda layout: tensors("head", 0.0).buffers)
        pull = asyncio.create_task(client.pull())
        await parked(client, "w0", "head")
        barrier = asyncio.create_task(client.barrier("x", 2))
        while "x" not in (await client.status())["barriers"]:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)
        life = client.conversation.life
        await client._link.connected().send(Leave(life))
        await asyncio.wait([pull, barrier])
        assert client.conversation.ending is Ending.LEFT
        with pytest.raises(ValueError, match="cannot be passed"):
            await barrier
        assert await pull is None
        await client.close()


@pytest.mark.e2e
async def test_a_killed_server_is_joined_once_for_both_and_each_update_has_one_end(configuration):
    flags = ["--config", configuration, "--workers", "2"]
    channels = []

    def channel():
        channels.append(Counting(url))
        return channels[-1]

    with serving(*flags) as (process, url):
        client, other = Client(url, "w0", groups=BOTH, channel=channel), Client(url, "w1", groups=BOTH)
        await asyncio.gather(client.join(), other.join())
        await asyncio.gather(offer(client), offer(other))
        embedding, head = (client.group(name) for name in BOTH)
        await asyncio.gather(embedding.pull(), head.pull(), other.group("head").pull())
        for _ in range(3):
            await embedding.pushpull(GRADIENT, 8, tensors("embedding"))
        # One update is in the open round, and its reply is to come; the other is being computed.
        under_way = asyncio.create_task(head.pushpull(GRADIENT, 8, tensors("head")))
        await parked(client, "w0", "head")
        process.kill()
        process.wait()
    assert channels[0].joins == 1
    before = embedding.conversation.life
    with serving(*flags, port=int(re.search(r"\d+$", url).group())):
        pushes = [asyncio.create_task(embedding.push(GRADIENT, 8, tensors("embedding"))), under_way]
        # Under sync round 0 opens when both workers are there again.
        again = asyncio.create_task(other.group("head").pull())
        outcome, (of_head, weights) = await asyncio.gather(*pushes)
        assert (outcome.clock, outcome.disposition, outcome.reason) == (3, None, Code.OLD_EPOCH)
        assert (of_head.clock, of_head.disposition, of_head.reason) == (0, None, Code.OLD_EPOCH)
        assert value_of(weights, "head") == 0.0
        life = embedding.conversation.life
        assert (life.epoch != before.epoch, life.incarnation, channels[0].joins) == (True, 1, 2), "one join for both"
        await again
        outcomes = await asyncio.gather(
            push_on(embedding, "embedding"), push_on(head, "head"), push_on(other.group("head"), "head")
        )
        assert [outcome.disposition for outcome in outcomes] == [
            Disposition.APPLIED,
            Disposition.HELD,
            Disposition.HELD,
        ]
        assert (embedding.conversation.clock, head.conversation.clock) == (1, 1)
        await asyncio.gather(client.close(), other.close())


async def push_on(group, name):
    await group.pull()
    return await group.push(GRADIENT, 8, tensors(name))


async def test_a_worker_that_is_finished_in_one_group_goes_on_in_the_other():
    async with serve(workers=1, until=2, named_groups=CONFIGURED) as server:
        client = Client(server.url, "w0", groups=BOTH)
        await client.join()
        await offer(client)
        embedding, head = (client.group(name) for name in BOTH)
        for name, group in (("head", head), ("embedding", embedding)):
            await group.pull()
            assert (await group.pushpull(GRADIENT, 1, tensors(name)))[1] is not None
            assert (await group.pushpull(GRADIENT, 1, tensors(name)))[1] is None
            assert (group.conversation.ending, await group.pull()) == (Ending.FINISHED, None)
            live = [worker["rank"] for worker in (await client.status())["workers"]]
            assert live == (["w0"] if group is head else []), "the last one leaves"
        await client.close()


async def test_a_process_that_has_lost_its_rank_is_told_in_every_group():
    async with serve(workers=1, named_groups=CONFIGURED) as server:
        old = Client(server.url, "w0", groups=BOTH)
        await old.join()
        async with Client(server.url, "w0", groups=BOTH):
            for name in BOTH:
                with pytest.raises(Exception, match="fenced"):
                    await old.group(name).pull()
        await old.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"groups": ()}, "groups must be 1 to 64 different names"),
        ({"groups": ("a", "a")}, "groups must be 1 to 64 different names"),
        ({"groups": "head"}, "groups must be a list of names"),
        ({"groups": ("a", "b c")}, "group 'b c' must be"),
        ({"groups": ("a",), "group": "a"}, "one of group= and groups="),
    ],
)
def test_groups_that_are_none(arguments, words):
    with pytest.raises(ValueError, match=words):
        Client("http://localhost:1", "w0", **arguments)


async def test_with_several_groups_a_call_says_which_one():
    client = Client("http://localhost:1", "w0", groups=BOTH)
    with pytest.raises(ValueError, match=r"several groups \(embedding, head\)"):
        await client.pull()
    with pytest.raises(ValueError, match="no group 'default', but embedding, head"):
        client.group("default")


class Flaky(Exchange):
    """Loses requests before they are sent, and replies when they have come."""

    def __init__(self, url, chance):
        super().__init__(url)
        self._chance = chance

    async def send(self, *request, **options):
        if self._chance.random() < 0.15:
            raise Lost("lost on the way there")
        answer = await super().send(*request, **options)
        if self._chance.random() < 0.15:
            raise Lost("lost on the way back")
        return answer


@pytest.mark.parametrize("seed", range(4))
async def test_each_update_counts_once_in_its_group_through_losses_and_evictions(seed, monkeypatch):
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.002)
    chance = random.Random(seed)
    async with serve(workers=1, named_groups=CONFIGURED) as server:
        client = Client(server.url, "w0", groups=BOTH, channel=lambda: Flaky(server.url, chance))
        await client.join()
        await offer(client)

        async def train(name):
            group, accepted, dropped = client.group(name), 0, 0
            pulled = await group.pull()
            for _ in range(60):
                if chance.random() < 0.1:
                    server.advance(100.0)  # longer than the lease, whatever the other group is doing
                outcome, pulled = await group.pushpull(GRADIENT, 1, tensors(name))
                accepted += not outcome.dropped
                dropped += outcome.dropped
                assert value_of(pulled, name) == -float(accepted), outcome
            return accepted, dropped

        results = await asyncio.gather(*(train(name) for name in BOTH))
        assert all(accepted > 0 for accepted, _ in results)
        assert any(dropped > 0 for _, dropped in results), "some evictions cost an update, and it is told"
        assert client.group("head").conversation.life.incarnation > 1
        await client.close()


class TestBeginningFails:
    """A `with` block that cannot begin has no end: what was opened for it is closed at once."""

    async def test_of_the_async_client(self):
        async with serve(named_groups=CONFIGURED) as server:
            client = Client(server.url, "w0", groups=("head", "nope"))
            with pytest.raises(WireError, match="there is no group 'nope'"):
                await client.__aenter__()
            assert client._link.channel is None
            await server.until(lambda: not server.connections())
            assert not server.runtime.machine.membership.live()

    async def test_of_the_async_client_that_is_cancelled(self, monkeypatch):
        async with serve(named_groups=CONFIGURED) as server:
            client = Client(server.url, "w0", groups=BOTH)
            asked = asyncio.Event()

            async def hang(*_, **__):
                asked.set()
                await asyncio.Event().wait()

            with monkeypatch.context() as patch:
                patch.setattr(Exchange, "send", hang)
                beginning = asyncio.create_task(client.__aenter__())
                await asked.wait()
            beginning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await beginning
            assert client._link.channel is None

    def test_of_the_blocking_client(self):
        with serving() as (_, url):
            client = BlockingClient(url, "w0", groups=("default", "nope"))
            with pytest.raises(WireError, match="there is no group 'nope'"), client:
                pass
            assert client.closed
            assert not client._background.thread.is_alive()
