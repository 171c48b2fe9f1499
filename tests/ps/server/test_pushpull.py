"""A push and the next pull in one request, over HTTP."""

import asyncio

import numpy as np

from tests.ps.server.holding import hold_the_applier
from tests.ps.server.rawclient import FRAME, arrays


class TestPushpull:
    async def test_both_results_in_one_frame(self, server, worker, gradient):
        reply = await worker.push(gradient, query="?pull=1")
        assert reply.status == 200
        told = reply.frame.message
        assert told["push"]["disposition"] == "applied"
        assert told["pulled"] == "granted"
        assert told["pull"]["clock"] == 1
        assert told["pull"]["version"].endswith(".2")
        assert np.allclose(arrays(reply)["bias"], 0.9)

    async def test_what_is_held_already_is_not_sent_again(self, server, worker):
        """A skip publishes nothing: the version of before is the next one too."""
        held = f"{worker.epoch}.{worker.version}"
        reply = await worker.push(None, query=f"?pull=1&since={held}", kind="skip", samples=0)
        told = reply.frame.message
        assert (told["pulled"], told["pull"]["unchanged"], reply.frame.specs) == ("granted", True, ())

    async def test_not_yet(self, start, gradient):
        server = await start(mode="ssp", staleness=0, workers=2)
        await server.offer()
        worker, _ = await server.join("w0"), await server.join("w1")
        await worker.pull()
        reply = await worker.push(gradient, query="?pull=1")
        told = reply.frame.message
        assert (reply.status, told["push"]["disposition"], told["pulled"]) == (200, "applied", "not-yet")
        assert told["pull"] == {"reason": "lag", "detail": "w0 leads w1 by 1 > 0", "waiting_for": ["w1"]}
        assert reply.frame.specs == ()

    async def test_held_is_202_and_the_wait_runs_out(self, start, gradient):
        server = await start(mode="sync", workers=2)
        await server.offer()
        worker, other = await server.join("w0"), await server.join("w1")
        await worker.pull()
        await other.pull()
        asked = asyncio.create_task(worker.push(gradient, query="?pull=1", wait=5))
        group = server.runtime.machine.groups["default"]
        await server.until(lambda: len(group.waiting))
        server.advance(5.1)
        reply = await asked
        told = reply.frame.message
        assert (reply.status, told["push"]["disposition"], told["pulled"]) == (202, "held", "not-yet")
        assert told["pull"]["waiting_for"] == ["w1"]

    async def test_answered_when_the_round_is_done(self, start, gradient):
        server = await start(mode="sync", workers=2)
        await server.offer()
        workers = [await server.join("w0"), await server.join("w1")]
        for worker in workers:
            await worker.pull()
        replies = await asyncio.gather(*(worker.push(gradient, query="?pull=1", wait=20) for worker in workers))
        for reply in replies:
            told = reply.frame.message
            assert (reply.status, told["push"]["disposition"], told["pulled"]) == (202, "held", "granted")
            assert (told["pull"]["clock"], told["pull"]["round"]) == (1, 1)
            assert np.allclose(arrays(reply)["bias"], 0.9)

    async def test_the_push_is_not_lost_in_a_refused_pull(self, start, gradient):
        server = await start(mode="async", until=1)
        await server.offer()
        worker = await server.join("w0")
        await worker.pull()
        told = (await worker.push(gradient, query="?pull=1")).frame.message
        assert told["push"]["disposition"] == "applied"
        assert told["pulled"] == "refused"
        assert (told["pull"]["code"], told["pull"]["status"]) == ("finished", 410)
        assert server.metric("refused_total", code="finished") == 1

    async def test_whose_asker_goes_away_while_it_is_applied(self, start, gradient):
        """The push stands, the pull that came with it is forgotten, and the worker can ask anew."""
        server = await start(mode="ssp", staleness=0, workers=2)
        await server.offer()
        worker, other = await server.join("w0"), await server.join("w1")
        await worker.pull()
        pins = hold_the_applier(server)
        body = worker.push_body(gradient)
        async with server.connect() as connection:
            headers = {"Content-Type": FRAME, "Content-Length": len(body), "Prefer": "wait=20"}
            await connection.send_head("POST", "/v1/updates?pull=1", headers)
            await connection.send(body)
            await server.until(lambda: server.runtime.machine.groups["default"].in_flight)
        await server.until(lambda: not server.runtime.askers)
        pins.clear()
        group = server.runtime.machine.groups["default"]
        await server.until(lambda: group.published == 2)
        assert len(group.waiting) == 0
        again = await server.push(body)
        assert (again.json["disposition"], again.json["reason"]) == ("applied", "repeated")
        await other.step(gradient)
        worker.clock = 1
        assert (await worker.pull()).status == 200

    async def test_repeated_it_can_ask_for_the_parameters_again(self, server, worker, gradient):
        body = worker.push_body(gradient)
        await server.push(body)
        reply = await server.push(body, query="?pull=1")
        told = reply.frame.message
        assert (told["push"]["reason"], told["pulled"]) == ("repeated", "granted")
