"""The blocking client: a thread, a real connection, Ctrl-C."""

import asyncio
import subprocess
import sys
import threading

import pytest
from aiohttp import web

from leeway.errors import WireError
from leeway.protocol.pushes import Disposition, UpdateKind
from leeway.worker.blocking import BlockingClient
from leeway.worker.client import Client
from tests.ps.server.serving import serve
from tests.worker.test_groups import BOTH, CONFIGURED, SPECS, parked, tensors, value_of

GRADIENT = UpdateKind.GRADIENT


def left():
    return web.json_response({"rank": "w0"})


def offered(group):
    return lambda layout: tensors(group, 0.0).buffers


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "leeway"]


def test_every_call(far_server):
    server = far_server
    server.then(
        server.joined(specs=()),
        web.json_response({"stored": [], "kept": [], "wanted": ["weight"]}),
        web.json_response({"stored": ["weight"], "kept": [], "wanted": []}),
        server.granted(),
        server.pushed(0),
        server.granted(1),
        server.pushpulled(1, 3, 3.0),
        server.pushed(2, Disposition.SKIPPED),
        server.granted(3),
        web.json_response({"name": "eval", "generation": 0}),
        web.json_response({"waiting": []}),
        left(),
    )
    with BlockingClient(server.url, "w0") as client:
        client.offer(server.specs, lambda layout: server.tensors(1.0).buffers)
        client.pull()
        assert client.push(GRADIENT, 1, server.tensors()).clock == 0
        client.pull()
        outcome, pulled = client.pushpull(GRADIENT, 1, server.tensors())
        assert (outcome.clock, server.value_of(pulled.frame)) == (1, 3.0)
        assert client.skip()[0].disposition is Disposition.SKIPPED
        assert client.settle().clock == 2
        client.barrier("eval")
        assert client.status() == {"waiting": []}
        assert client.conversation.clock == 3
        client.leave()
    assert threads() == []
    with pytest.raises(ValueError, match="this client is closed"):
        client.pull()
    client.close()


def test_what_is_raised_comes_through(far_server):
    far_server.then(far_server.refused("unknown-group", "no such group"))
    client = BlockingClient(far_server.url, "w0")
    with pytest.raises(WireError, match="unknown-group"):
        client.join()
    client.close()


def test_ctrl_c_gives_up_the_call_and_leaves_the_client_usable(far_server):
    server = far_server
    server.then(server.joined(), server.granted(), server.interrupt, server.pushpulled(0, 2, 2.0), left())
    with BlockingClient(server.url, "w0") as client:
        client.pull()
        with pytest.raises(KeyboardInterrupt):
            client.pushpull(GRADIENT, 1, server.tensors())
        assert client.conversation.in_hand
        assert client.settle().disposition is Disposition.APPLIED
    first, second = [seen for seen in server.seen if seen.line == "POST /v1/updates"]
    assert first.body == second.body


def test_closing_without_a_server_takes_no_time(far_server):
    far_server.then(far_server.joined())
    client = BlockingClient(far_server.url, "w0")
    client.join()
    far_server.then(*[far_server.break_off] * 20)
    client.close()
    far_server.script.clear()
    assert threads() == []


async def test_a_group_in_each_thread():
    """The head's round waits for another worker while the embedding goes on."""
    async with serve(workers=2, named_groups=CONFIGURED) as server:
        worker = BlockingClient(server.url, "w0", groups=BOTH)
        async with Client(server.url, "w1", groups=BOTH) as client:
            other = client.group("head")
            await asyncio.to_thread(worker.join)
            embedding, head = (worker.group(name) for name in BOTH)
            for group in BOTH:
                await asyncio.to_thread(worker.group(group).offer, [SPECS[group]], offered(group))
            await asyncio.gather(other.pull(), *(asyncio.to_thread(group.pull) for group in (embedding, head)))
            round_of_head = asyncio.create_task(asyncio.to_thread(head.pushpull, GRADIENT, 1, tensors("head", 2.0)))
            await parked(client, "w0", "head")
            for clock in range(3):
                outcome, pulled = await asyncio.to_thread(embedding.pushpull, GRADIENT, 1, tensors("embedding"))
                assert (outcome.clock, value_of(pulled, "embedding")) == (clock, -(clock + 1.0))
            assert not round_of_head.done()
            await other.push(GRADIENT, 1, tensors("head", 4.0))
            outcome, pulled = await round_of_head
            assert (outcome.disposition, value_of(pulled, "head")) == (Disposition.HELD, -3.0)
            assert (embedding.conversation.clock, head.conversation.clock) == (3, 1)
            with pytest.raises(ValueError, match="several groups"):
                worker.pull()
            with pytest.raises(ValueError, match="no group 'tail'"):
                worker.group("tail")
            await asyncio.to_thread(worker.close)


def test_a_group_keeps_its_client(far_server):
    far_server.then(far_server.joined(), left())
    group = BlockingClient(far_server.url, "w0").group()
    assert group.settle() is None
    group.run(group.worker.client.join)
    del group
    for thread in threads():
        thread.join(10)
    assert threads() == []


@pytest.mark.parametrize("moment", ["before it is handed over", "before it has begun", "when it has been sent"])
def test_ctrl_c_at_an_unlucky_moment_leaves_no_call_behind(far_server, monkeypatch, moment):
    """Nothing goes on that nobody waits for, and nothing is left that was never begun."""
    sent, released = threading.Event(), threading.Event()

    async def unanswered(request):
        sent.set()
        while not request.transport.is_closing():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)
        return web.Response()

    far_server.then(far_server.joined(), *([unanswered] if "sent" in moment else []), far_server.granted(), left())
    with BlockingClient(far_server.url, "w0") as client:
        hand_over = client._loop.call_soon_threadsafe
        interrupts = iter([True])

        def interrupted(callback, *arguments):
            if not next(interrupts, False):
                handle = hand_over(callback, *arguments)
                released.set()
                return handle
            if "begun" in moment:
                hand_over(released.wait)
            if "handed over" not in moment:
                hand_over(callback, *arguments)
            if "sent" in moment:
                assert sent.wait(10)
            raise KeyboardInterrupt

        monkeypatch.setattr(client._loop, "call_soon_threadsafe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.pull()
        assert client.pull().grant.clock == 0


INTERRUPTED = """
import random, signal, sys
from leeway.worker.blocking import BlockingClient

signal.signal(signal.SIGALRM, signal.default_int_handler)
draws, interrupted = random.Random(5), 0
with BlockingClient(sys.argv[1], "w0") as client:
    for _ in range(2000):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, draws.uniform(1e-5, 2e-4))
                client.settle()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
    assert client.settle() is None
print(interrupted > 0)
"""


def test_ctrl_c_while_a_call_ends_leaves_no_lock_that_the_loop_waits_for(far_server):
    """An alarm that comes at all moments, also in the middle of what waiting for a result is made of. In a process of
    its own: it comes in whatever else runs there too.
    """
    far_server.then(far_server.joined(), left())
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, far_server.url], capture_output=True, text=True, timeout=100
    )
    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran.stderr
