"""Any bytes as a body end in a 4xx problem document, and the server lives on, untouched."""

import asyncio
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ps.server.rawclient import FRAME, frame
from tests.ps.server.serving import MODEL, serve

ROUTES = ["POST /v1/updates", "POST /v1/updates?pull=1", "PUT /v1/params"]
GRADIENT = {name: np.ones_like(array) for name, array in MODEL.items()}


@pytest.fixture(scope="module")
def loop():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def served(loop):
    """A server and a worker whose push would fit."""
    context = serve(mode="async")

    async def begin():
        server = await context.__aenter__()
        await server.offer()
        # New keys are not taken any more, so nothing that is offered can change a thing.
        worker = await server.join("w0")
        await worker.step(GRADIENT)
        await worker.pull()
        return server, worker

    async def end():
        await context.__aexit__(None, None, None)

    yield loop.run(begin())
    loop.run(end())


@st.composite
def mutations(draw):
    """What to do to a body: a list of (where, how, value), `where` and `how far` as shares of its length."""
    share = st.floats(0, 1, exclude_max=True)
    kinds = st.sampled_from(["flip", "set", "cut", "insert", "drop", "repeat"])
    return draw(st.lists(st.tuples(kinds, share, share, st.integers(0, 255)), min_size=1, max_size=6))


def mutated(body, changes):
    data = bytearray(body)
    for kind, where, how_far, value in changes:
        # The metadata is where meaning is: half of the mutations hit the first 400 bytes.
        span = len(data) if value % 2 else min(len(data), 400)
        at = int(where * span)
        length = 1 + int(how_far * 40)
        if kind == "flip" and data:
            data[at] ^= 1 << (value % 8)
        elif kind == "set" and data:
            data[at] = value
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = bytes([value]) * length
        elif kind == "drop":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length]
    return bytes(data)


class TestAnyBytes:
    @settings(
        max_examples=250, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(route=st.sampled_from(ROUTES), changes=mutations(), body=st.binary(max_size=200))
    def test_end_in_a_problem_document(self, loop, served, route, changes, body):
        server, worker = served
        method, _, target = route.partition(" ")
        whole = frame({}, MODEL) if method == "PUT" else worker.push_body(GRADIENT)

        async def send(data):
            before = await server.state()
            reply = await server.request(method, target, data, {"Content-Type": FRAME})
            if 400 <= reply.status < 500:
                assert reply.problem
                assert await server.state() == before
            else:
                # A mutation that means something: other values, fewer samples.
                assert reply.status in (200, 202), reply
            assert (await server.get("/livez")).status == 200
            if worker.clock != server.runtime.machine.groups["default"].clock_of("w0"):
                worker.clock += 1
                assert (await worker.pull()).status == 200

        loop.run(send(body))
        loop.run(send(mutated(whole, changes)))

    def test_also_when_they_come_in_any_pieces(self, loop, served):
        server, worker = served
        chance = random.Random(7)

        async def send():
            for _ in range(30):
                body = bytearray(worker.push_body({"nope": np.ones(chance.randrange(1, 3000), np.float32)}))
                if chance.random() < 0.5:
                    body[chance.randrange(32)] ^= 0xFF
                async with server.connect() as connection:
                    await connection.send_head(
                        "POST", "/v1/updates", {"Content-Type": FRAME, "Content-Length": len(body)}
                    )
                    while body:
                        count = chance.choice([1, 7, 31, 33, 64, 1000, 5000])
                        await connection.send(bytes(body[:count]))
                        del body[:count]
                        await asyncio.sleep(0)
                    reply = await connection.reply()
                    assert reply.status in (400, 413, 422)
                    assert reply.problem

        loop.run(send())

    def test_leave_nothing_behind(self, loop, served):
        server, _ = served
        assert not server.runtime.askers
        assert not server.runtime.bodies
        assert server.pool.lent_bytes == 0
