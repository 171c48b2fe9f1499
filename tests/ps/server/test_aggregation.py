"""Rounds whose updates are aggregated by a rule, over HTTP."""

import json

import numpy as np
import pytest
from structlog.testing import capture_logs

from leeway.ps.settings.config import GroupConfig
from tests.ps.server.rawclient import FRAME, arrays


class TestAggregation:
    """A round goes through the rule of its group; what comes of each is in `tests/ps/arithmetic/aggregation`."""

    async def begin(self, start, rule, workers, **settings):
        server = await start(mode="sync", workers=workers, lr=1.0, aggregation=rule, **settings)
        await server.offer({"weight": np.zeros(2, np.float32)})
        return server, [await server.join(f"w{place}") for place in range(workers)]

    async def round(self, workers, points, kind="gradient"):
        for worker in workers:
            await worker.pull()
        for worker, point in zip(workers, points, strict=True):
            assert (await worker.push({"weight": np.array(point, np.float32)}, kind=kind)).status == 202

    @pytest.mark.parametrize("kind", ["gradient", "model"])
    @pytest.mark.parametrize(
        ("rule", "expected"), [("sum", 12), ("median", 1), ("trimmed-mean:1", 2 / 3), ("krum:1", 0), ("mean", 2.4)]
    )
    async def test_a_round_is_made_by_the_rule_that_was_chosen(self, start, rule, expected, kind):
        server, workers = await self.begin(start, rule, 5)
        sign = 1 if kind == "gradient" else -1
        points = [[0, 0], [1, 0], [0, 1], [1, 1], [10, 10]]
        await self.round(workers, [[sign * x, sign * y] for x, y in points], kind)
        assert np.allclose((await server.values())["weight"], -expected)
        assert (await server.get("/v1/status")).json["groups"]["default"]["aggregation"] == rule

    async def test_each_group_has_its_own(self, start):
        groups = (GroupConfig(name="a", keys=("a",), aggregation="median", lr=1.0),)
        server = await start(mode="sync", workers=3, lr=1.0, named_groups=groups)
        await server.offer({"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)})
        workers = [await server.join(f"w{place}") for place in range(3)]
        for worker in workers:
            await worker.pull(group="a")
            await worker.pull()
        for worker, value in zip(workers, (1, 2, 9), strict=True):
            await worker.push({"a": np.full(1, value, np.float32)}, group="a")
            await worker.push({"b": np.full(1, value, np.float32)}, clock=0)
        shown = (await server.get("/v1/status")).json["groups"]
        assert {name: group["aggregation"] for name, group in shown.items()} == {"a": "median", "default": "mean"}
        values = [await server.get(f"/v1/params?group={name}", {"Accept": FRAME}) for name in ("a", "default")]
        assert [next(iter(arrays(one).values())).item() for one in values] == [-2, -4]

    async def test_too_few_updates_make_no_step_and_it_is_said_with_their_number(self, start):
        server, workers = await self.begin(start, "trimmed-mean:1", 3)
        for worker in workers:
            await worker.pull()
        with capture_logs() as lines:
            for worker in workers[:2]:
                assert (await worker.push({"weight": np.ones(2, np.float32)})).status == 202
            await workers[2].push({}, kind="skip", samples=0)
        assert not server.runtime.bodies
        assert not (await server.values())["weight"].any()
        assert server.metric("rounds_without_step_total", group="default") == 1
        assert server.metric("steps_total") == 0
        detail = "there were 2 updates in round 0, and trimmed-mean:1 needs 3: nothing is published"
        (line,) = [line for line in lines if line["event"] == "too few updates"]
        assert (line["log_level"], line["updates"], line["needed"], line["detail"]) == ("warning", 2, 3, detail)
        told = server.runtime.decisions.after(None)[-1]
        assert (told.kind, told.detail, told.reason) == ("too-few-updates", detail, "too-few-updates")
        granted = [(await worker.pull()).frame.message for worker in workers]
        assert [(one["version"].partition(".")[2], one["round"], one["too_few"]) for one in granted] == [
            *(("1", 1, True), ("1", 1, True), ("1", 1, False))
        ]
        for worker in workers:
            await worker.push({"weight": np.ones(2, np.float32)})
        assert np.array_equal((await server.values())["weight"], [-1, -1])

    async def test_rounds_that_go_on_without_a_step_are_told_again_with_their_number(self, start):
        server, workers = await self.begin(start, "krum:0", 3)

        async def rounds_of_too_few(count):
            for _ in range(count):
                for worker in workers:
                    await worker.pull()
                for worker in workers[:2]:
                    await worker.push({"weight": np.zeros(2, np.float32)})
                await workers[2].push({}, kind="skip", samples=0)

        async def counted():
            group = (await server.get("/v1/status")).json["groups"]["default"]
            return group["rounds_without_step"], group["rounds_since_step"]

        assert await counted() == (0, 0)
        with capture_logs() as lines:
            await rounds_of_too_few(9)
            assert await counted() == (9, 9)
            await self.round(workers, [[0, 0]] * 3)
            await server.until(lambda: server.metric("steps_total") == 1)
            assert await counted() == (9, 0)
            await rounds_of_too_few(3)
            assert await counted() == (12, 3)
        told = [line for line in lines if line["event"] == "too few updates"]
        assert [(line["round"], line["in_a_row"]) for line in told] == [
            (0, 1),
            (1, 2),
            (3, 4),
            (7, 8),
            (10, 1),
            (11, 2),
        ]
        assert told[2]["detail"].endswith("nothing is published; so it was in 4 rounds in a row")
        decided = [line.detail for line in server.runtime.decisions.after(None) if line.kind == "too-few-updates"]
        assert decided == [line["detail"] for line in told]

    async def test_a_policy_without_rounds_is_refused(self, start):
        server, _ = await self.begin(start, "median", 2)
        for wanted in ({"mode": "async"}, {"mode": "ssp", "staleness": 1}):
            reply = await server.put("/v1/policy", json.dumps(wanted).encode())
            reply.refused(422, "invalid-value", "is for rounds", wanted["mode"])
        assert (await server.get("/v1/policy")).json["mode"] == "sync"

    async def test_a_quorum_below_what_it_needs_is_refused(self, start):
        server, _ = await self.begin(start, "trimmed-mean:1", 4)
        for quorum in (1, 2):
            reply = await server.put("/v1/policy", {"mode": "sync", "quorum": quorum})
            reply.refused(422, "invalid-value", "needs 3 updates", f"close with {quorum}", "a quorum of 3 or more")
        assert "quorum" not in (await server.get("/v1/policy")).json
        assert (await server.put("/v1/policy", {"mode": "sync", "quorum": 3})).json["quorum"] == 3
