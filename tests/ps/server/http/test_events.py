"""`/v1/events` over real sockets: what a viewer is told first, then, and last; and viewers that behave badly."""

import asyncio
import contextlib

import numpy as np
import pytest
from structlog.testing import capture_logs

from leeway.protocol import limits
from leeway.ps.server.http import events
from leeway.ps.watching.decision_log import REMEMBERED
from leeway.transport.http import listener
from tests.ps.server import rawclient, serving
from tests.ps.server.eventstream import watch


class TestGreeting:
    async def test_is_the_status_the_curve_and_the_decisions(self, server, worker):
        server.advance(0.1)
        async with watch(server) as stream:
            status, points, decisions = await stream.greeting()
            asked = (await server.get("/v1/status")).json
            assert status.pop("time") == pytest.approx(asked.pop("time"), abs=60)
            assert status == asked
            assert [one["groups"]["default"]["version"] for one in points] == [1]
            assert [(one["kind"], one["rank"]) for one in decisions] == [("joined", "w0")]
            assert stream.chunks == 1

    async def test_headers(self, server):
        async with watch(server, {"Accept": "text/event-stream", "Accept-Encoding": "gzip, br"}) as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            assert stream.headers["cache-control"] == "no-store"
            assert stream.headers["x-accel-buffering"] == "no"
            assert "content-encoding" not in stream.headers

    async def test_of_a_server_where_nothing_has_happened(self, start):
        async with watch(await start()) as stream:
            status, points, decisions = await stream.greeting()
            assert (status["workers"], points, decisions) == ([], [], [])

    async def test_head_has_no_body_and_takes_no_place(self, server):
        reply = await server.request("HEAD", "/v1/events")
        assert (reply.status, reply.kind) == (200, "text/event-stream")
        assert server.runtime.feed.viewers == 0


class TestLastEventId:
    async def test_what_came_after_it_is_told(self, server):
        for rank in ("w0", "w1", "w2"):
            await server.join(rank)
        async with watch(server) as stream:
            *_, decisions = await stream.greeting()
        seen = decisions[0]["id"]
        async with watch(server, {"Last-Event-ID": str(seen)}) as stream:
            *_, decisions = await stream.greeting()
            assert [(one["id"], one["rank"]) for one in decisions] == [(seen + 1, "w1"), (seen + 2, "w2")]
        async with watch(server, {"Last-Event-ID": str(seen + 2)}) as stream:
            *_, decisions = await stream.greeting()
            assert decisions == []

    @pytest.mark.parametrize("seen", ["", "x", "-1", "0", "1e9", "9" * 5000, "99999999999999"])
    async def test_one_that_is_none_of_ours_is_no_reason_to_refuse(self, server, seen):
        await server.join("w0")
        async with watch(server, {"Last-Event-ID": seen}) as stream:
            *_, decisions = await stream.greeting()
            assert [one["rank"] for one in decisions] == ["w0"]


class TestThen:
    async def test_a_push_is_a_new_status_a_point_and_no_nan(self, server, worker, gradient):
        server.advance(0.1)
        async with watch(server) as stream:
            await stream.greeting()
            await worker.push(gradient, metrics={"loss": float("nan"), "accuracy": 0.5})
            server.advance(1.1)
            status = await stream.next("status")
            assert status["groups"]["default"]["version"] == 2
            assert status["workers"][0]["groups"]["default"]["clock"] == 1
            point = await stream.next("point")
            assert point == {
                "seconds": status["uptime_seconds"],
                "groups": {
                    "default": {"version": 2, "updates": 1, "min_clock": 1, "figures": {"loss": None, "accuracy": 0.5}}
                },
            }

    async def test_who_waits_and_why(self, start, gradient):
        server = await start(mode="ssp", staleness=0)
        await server.offer()
        fast, _ = await server.join("w0"), await server.join("w1")
        async with watch(server) as stream:
            await stream.greeting()
            await fast.step(gradient)
            pull = asyncio.create_task(fast.pull(wait=30))
            await server.until(lambda: len(server.runtime.machine.groups["default"].waiting))
            server.advance(0.3)
            status = await stream.next("status")
            (why,) = [one["groups"]["default"]["why"] for one in status["workers"] if one["rank"] == "w0"]
            assert why["waiting_for"] == ["w1"]
            await stream.next("point")
            decision = await stream.next("decision")
            assert (decision["kind"], decision["rank"], decision["reason"]) == ("waits", "w0", "lag")
            assert decision["detail"] == why["detail"]
            server.runtime.stop()
            (await pull).refused(503, "stopping")

    async def test_a_heartbeat_though_nothing_happens(self, start):
        server = await start()
        async with watch(server) as stream:
            first, *_ = await stream.greeting()
            server.advance(1.9)
            server.advance(0.1)
            again = await stream.next("status")
            assert again["uptime_seconds"] == pytest.approx(first["uptime_seconds"] + 2.0)


class TestDecisions:
    """Every kind, from what brings it about."""

    async def told(self, stream):
        message = await stream.message()
        while message.event != "decision":
            message = await stream.message()
        assert message.id == message.data["id"]
        return message.data

    async def test_of_lives_the_policy_and_the_optimizer(self, server):
        async with watch(server) as stream:
            await stream.greeting()
            worker = await server.join("w0")
            await worker.leave()
            await server.put("/v1/policy", {"mode": "ssp", "staleness": 3})
            await server.put("/v1/optimizer", {"lr": 0.5})
            server.advance(0.3)
            told = [await self.told(stream) for _ in range(4)]
        assert [(one["kind"], one["group"], one["rank"], one["reason"]) for one in told] == [
            ("joined", None, "w0", None),
            ("ended", None, "w0", "left"),
            ("switched", "default", None, None),
            ("optimizer", "default", None, None),
        ]
        assert [one["mode"] for one in told] == [None, None, "ssp", None]
        assert "ssp with a bound of 3" in told[2]["detail"]
        assert "lr 0.5" in told[3]["detail"]

    async def test_of_a_switch_that_takes_time(self, server):
        async with watch(server) as stream:
            await stream.greeting()
            workers = [await server.join(rank) for rank in ("w0", "w1", "w2")]
            assert (await server.get(workers[0].pull_target())).status == 200
            with capture_logs() as lines:
                await server.put("/v1/policy", {"mode": "sync", "quorum": 2})
            server.advance(0.3)
            *_, told = [await self.told(stream) for _ in range(4)]
        assert (told["kind"], told["group"], told["mode"]) == ("switching", "default", "sync")
        assert (
            told["detail"]
            == "to sync with a quorum of 2 and a grace of auto, from iteration 1 on; it waits for w0,w1,w2"
        )
        (line,) = [line for line in lines if line["event"] == "switching"]
        assert (line["at"], line["quorum"], line["waiting_for"]) == (1, 2, ("w0", "w1", "w2"))

    async def test_of_an_eviction(self, server, worker):
        async with watch(server) as stream:
            await stream.greeting()
            server.advance(1000.0)
            told = await self.told(stream)
            assert (told["kind"], told["rank"], told["reason"]) == ("ended", "w0", "lease-expired")

    async def test_of_updates_that_are_not_finite(self, server, worker):
        async with watch(server) as stream:
            await stream.greeting()
            (await worker.push({"bias": np.full(3, np.nan, np.float32)})).refused(422, "non-finite")
            server.advance(0.3)
            told = await self.told(stream)
            assert (told["kind"], told["group"], told["rank"]) == ("non-finite", "default", "w0")
            assert "'bias'" in told["detail"]

    async def test_of_checkpoints(self, start, tmp_path):
        server = await start(state_dir=tmp_path)
        await server.offer()
        async with watch(server) as stream:
            await stream.greeting()
            name = (await server.post("/v1/checkpoints")).json["checkpoint"]
            server.advance(0.3)
            told = await self.told(stream)
            assert (told["kind"], told["reason"]) == ("checkpoint", "request")
            assert name in told["detail"]

    async def test_of_a_reader_that_was_closed(self, server):
        async with watch(server) as stream:
            await stream.greeting()
            server.runtime.observer.slow_reader_closed()
            server.advance(0.3)
            assert (await self.told(stream))["kind"] == "slow-reader"

    async def test_of_the_end_of_the_run(self, start, gradient):
        server = await start(mode="async", until=1)
        await server.offer()
        worker = await server.join("w0")
        async with watch(server) as stream:
            await stream.greeting()
            await worker.step(gradient)
            server.advance(0.3)
            told = await self.told(stream)
            assert told["kind"] == "finished"
            assert told["detail"] == "every group has come to its end"


class TestStop:
    async def test_the_last_message_is_the_decision_and_the_stream_ends(self, server, worker):
        async with watch(server) as stream, watch(server) as other:
            for one in (stream, other):
                await one.greeting()
            server.runtime.stop()
            for one in (stream, other):
                status, decision = await one.rest()
                assert status.data["stopping"] is True
                assert (decision.event, decision.data["kind"]) == ("decision", "stopping")
            await server.until(lambda: server.runtime.feed.viewers == 0)

    async def test_one_who_comes_now_is_told_so(self, server):
        server.runtime.stop()
        async with watch(server) as stream:
            *_, last = await stream.rest()
            assert last.data["kind"] == "stopping"


class TestViewers:
    async def test_that_have_gone_are_forgotten(self, server, worker):
        async with watch(server) as gone, watch(server) as stays:
            for one in (gone, stays):
                await one.greeting()
            assert server.runtime.feed.viewers == 2
            gone.connection.abort()
            await server.until(lambda: server.runtime.feed.viewers == 1)
            await worker.leave()
            server.advance(0.3)
            assert (await stays.next("status"))["workers"] == []

    async def test_too_many(self, server, monkeypatch):
        monkeypatch.setattr(limits, "MAX_VIEWERS", 2)
        async with watch(server):
            async with watch(server):
                refused = await server.get("/v1/events")
                refused.refused(503, "busy", "2 are watching")
                assert refused.headers["retry-after"] == "1"
            await server.until(lambda: server.runtime.feed.viewers == 1)
            async with watch(server) as stream:
                await stream.greeting()


class TestDeaf:
    """One who reads nothing: the buffers between here and there fill up, and then its connection takes no more."""

    async def fill(self, server, stream, full):
        """Tell so much, which `stream` reads, until this is so."""
        async with asyncio.timeout(rawclient.PATIENCE_SECONDS):
            while not full():
                for _ in range(REMEMBERED):
                    server.runtime.observer.slow_reader_closed()
                server.advance(0.3)
                await stream.next("status")
                for _ in range(REMEMBERED):
                    await stream.next("decision")

    async def test_is_cut_off_and_the_others_are_not_held_up(self, server, monkeypatch):
        monkeypatch.setattr(events, "WRITE_SECONDS", 0.2)
        async with watch(server, small=True) as deaf, watch(server) as stream:
            await stream.greeting()
            await self.fill(server, stream, lambda: server.runtime.feed.viewers == 1)
            await deaf.connection.closed()
            await (await server.join("w0")).leave()
            server.advance(0.3)
            assert (await stream.next("status"))["workers"] == []

    async def test_does_not_hold_up_the_stop(self, monkeypatch):
        monkeypatch.setattr(listener, "SHUTDOWN_SECONDS", 10 * rawclient.PATIENCE_SECONDS)
        monkeypatch.setattr(events, "LAST_WRITE_SECONDS", 0.1)
        async with contextlib.AsyncExitStack() as viewers:
            async with contextlib.AsyncExitStack() as stack:
                server = await stack.enter_async_context(serving.serve(mode="async"))
                await viewers.enter_async_context(watch(server, small=True))
                stream = await viewers.enter_async_context(watch(server))
                await stream.greeting()
                told = server.runtime.feed
                await self.fill(server, stream, lambda: min(one.state for one in told._viewers) + 3 < told._states)
                async with asyncio.timeout(rawclient.PATIENCE_SECONDS):
                    await stack.aclose()
            assert told.viewers == 0
            assert (await stream.rest())[-1].data["kind"] == "stopping"
