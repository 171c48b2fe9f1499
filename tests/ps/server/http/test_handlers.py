"""Each route's normal behaviour, on real sockets."""

import asyncio
import json

import numpy as np
import pytest

from tests.ps.server.rawclient import FRAME, arrays, frame, spec_of
from tests.ps.server.serving import MODEL


def life_query(worker):
    return "epoch={epoch}&incarnation={incarnation}".format(**worker.life)


class TestJoin:
    async def test_tells_what_a_worker_needs(self, server):
        reply = await server.post("/v1/workers", {"rank": "w1", "session": "s1"})
        assert reply.status == 200
        told = reply.json
        assert told["epoch"] == server.runtime.machine.epoch
        assert (told["incarnation"], told["resumed"], told["lease_seconds"]) == (1, False, 10.0)
        assert (told["index"], told["count"], told["until"], told["barriers"]) == (0, 1, None, {})
        group = told["groups"]["default"]
        assert (group["clock"], group["policy"], group["last"]) == (0, "async", None)
        assert sorted(group["specs"]) == [
            ["bias", "float32", "trainable", [3]],
            ["mean", "float32", "float-buffer", [3]],
            ["seen", "int64", "integer-buffer", []],
            ["weight", "float32", "trainable", [4, 3]],
        ]

    async def test_the_same_session_has_the_same_life(self, server, worker, gradient):
        await worker.push(gradient)
        reply = await server.post("/v1/workers", {"rank": "w0", "session": worker.session})
        told = reply.json
        assert (told["incarnation"], told["resumed"]) == (1, True)
        assert told["groups"]["default"]["clock"] == 1
        assert told["groups"]["default"]["last"] == {"clock": 0, "disposition": "applied"}

    async def test_an_ended_session_is_told_so(self, server, worker):
        await worker.leave()
        reply = await server.post("/v1/workers", {"rank": "w0", "session": worker.session})
        reply.refused(410, "left", "w0#1")

    async def test_index_and_count_are_in_natural_order(self, server):
        for rank in ("w10", "w2"):
            await server.join(rank)
        told = (await server.post("/v1/workers", {"rank": "w9", "session": "s"})).json
        assert (told["index"], told["count"]) == (1, 3)


class TestLeaveAndHeartbeat:
    async def test_leave_and_leave_again(self, server, worker):
        for _ in range(2):
            reply = await worker.leave()
            assert (reply.status, reply.json) == (200, {"rank": "w0"})
        assert (await server.get("/v1/status")).json["workers"] == []
        assert server.metric("departures_total", reason="left") == 1

    async def test_a_heartbeat_renews_the_lease(self, server, worker):
        for _ in range(3):
            server.advance(6.0)
            reply = await server.put(f"/v1/workers/w0/lease?{life_query(worker)}")
            assert (reply.status, reply.json) == (200, {"lease_seconds": 10.0})
        server.advance(10.0)
        problem = (await server.put(f"/v1/workers/w0/lease?{life_query(worker)}")).refused(410, "evicted", "10 s")
        assert problem["last"] == {}
        assert server.metric("departures_total", reason="lease-expired") == 1

    async def test_a_pull_renews_it_too(self, server, worker):
        for _ in range(3):
            server.advance(6.0)
            assert (await worker.pull()).status == 200

    async def test_old_epoch(self, server, worker):
        for method, target in (("PUT", "/v1/workers/w0/lease"), ("DELETE", "/v1/workers/w0")):
            problem = (await server.request(method, target + "?epoch=1&incarnation=1")).refused(409, "old-epoch")
            assert problem["epoch"] == server.runtime.machine.epoch


class TestWholeOffer:
    """In the question, and in the message of the frame."""

    @pytest.mark.parametrize("asked", [True, False])
    async def test_another_model_is_refused_with_both_lists(self, server, asked):
        wanted = {"weight": MODEL["weight"], "other": np.zeros(2, np.float32)}
        if asked:
            rows = [spec_of(name, array).to_row() for name, array in wanted.items()]
            body = json.dumps({"specs": rows, "whole": True, "group": "default"}).encode()
            reply = await server.put("/v1/params?ask=1", body)
        else:
            body = frame({"whole": True}, wanted)
            reply = await server.put("/v1/params", body, {"Content-Type": FRAME})
        problem = reply.refused(409, "schema-conflict", "lacks 3 keys that the group has", "(other)")
        assert sorted(problem["missing"]) == ["bias", "mean", "seen"]
        assert (problem["extra"], problem["group"]) == (["other"], "default")

    async def test_closes_the_group(self, server):
        body = frame({"whole": True}, MODEL)
        assert (await server.put("/v1/params", body, {"Content-Type": FRAME})).status == 200
        extra = frame({}, {"extra": np.zeros(2, np.float32)})
        reply = await server.put("/v1/params", extra, {"Content-Type": FRAME})
        reply.refused(409, "schema-closed", "extra")
        joined = await server.post("/v1/workers", b'{"rank": "w0", "session": "s"}')
        assert joined.json["groups"]["default"]["whole"] is True

    async def test_fields_that_are_wrong(self, server):
        body = frame({"whole": "perhaps"}, MODEL)
        reply = await server.put("/v1/params", body, {"Content-Type": FRAME})
        reply.refused(400, "malformed-request", "whole")


class TestOffer:
    async def test_the_question_then_the_body(self, start):
        server = await start(mode="async")
        specs = [["weight", "float32", "trainable", [4, 3]], ["bias", "float32", "trainable", [3]]]
        reply = await server.put("/v1/params?ask=1", {"specs": specs})
        assert reply.json == {"stored": [], "kept": [], "wanted": ["weight", "bias"]}
        reply = await server.put("/v1/params", frame({}, {"bias": MODEL["bias"]}), {"Content-Type": FRAME})
        assert reply.json == {"stored": ["bias"], "kept": [], "wanted": []}
        reply = await server.put("/v1/params?ask=1", {"specs": specs})
        assert reply.json == {"stored": [], "kept": ["bias"], "wanted": ["weight"]}

    async def test_the_first_wins(self, server):
        other = {name: array + 1 for name, array in MODEL.items()}
        async with server.untouched():
            reply = await server.put("/v1/params", frame({}, other), {"Content-Type": FRAME})
            assert sorted(reply.json["kept"]) == sorted(MODEL)
            assert reply.json["stored"] == []

    async def test_new_keys_make_the_next_version(self, server):
        reply = await server.offer({"extra": np.full(2, 7, np.float32)})
        assert reply.json["stored"] == ["extra"]
        values = await server.values()
        assert np.array_equal(values["extra"], [7, 7])
        assert np.array_equal(values["weight"], MODEL["weight"])
        assert (await server.get("/v1/status")).json["groups"]["default"]["version"] == 2


class TestPull:
    async def test_a_worker_is_granted_its_iteration(self, server):
        worker = await server.join("w0")
        reply = await worker.pull()
        assert reply.status == 200
        assert reply.frame.message == {
            "version": f"{worker.epoch}.1",
            "reason": "granted",
            "clock": 0,
            "round": None,
            "lag": 0,
            "index": 0,
            "count": 1,
            "unchanged": False,
            "step_failed": False,
            "too_few": False,
        }
        assert reply.headers["etag"] == f'"{worker.epoch}.1"'
        assert all(np.array_equal(array, MODEL[name]) for name, array in arrays(reply).items())

    async def test_unchanged_is_304_with_the_grant_in_a_header(self, server, worker):
        reply = await worker.pull(since=f"{worker.epoch}.1")
        assert reply.status == 304
        grant = json.loads(reply.headers["leeway-grant"])
        assert (grant["version"], grant["clock"], grant["unchanged"]) == (f"{worker.epoch}.1", 0, True)
        assert server.metric("requests_total", route="/v1/params", status="304") == 1

    async def test_not_yet_is_204_with_the_reason_in_a_header(self, start, gradient):
        server = await start(mode="ssp", staleness=0)
        await server.offer()
        worker, _ = await server.join("w0"), await server.join("w1")
        await worker.step(gradient)
        reply = await worker.pull()
        assert reply.status == 204
        assert reply.headers["retry-after"] == "1"
        assert json.loads(reply.headers["leeway-reason"]) == {
            "reason": "lag",
            "detail": "w0 leads w1 by 1 > 0",
            "waiting_for": ["w1"],
        }

    async def test_the_wrong_iteration(self, server, worker):
        async with server.untouched():
            assert (await worker.pull(clock=4)).refused(409, "wrong-clock", "iteration 4")["clock"] == 0

    async def test_parked_until_it_may_go_on(self, start, gradient):
        server = await start(mode="ssp", staleness=0)
        await server.offer()
        worker, other = await server.join("w0"), await server.join("w1")
        await worker.step(gradient)
        parked = asyncio.create_task(worker.pull(wait=20))
        group = server.runtime.machine.groups["default"]
        await server.until(lambda: len(group.waiting))
        (waits,) = [one for one in (await server.get("/v1/status")).json["workers"] if one["rank"] == "w0"]
        assert waits["groups"]["default"]["state"] == "waiting"
        assert waits["groups"]["default"]["why"]["waiting_for"] == ["w1"]
        await other.step(gradient)
        assert (await parked).frame.message["clock"] == 1
        assert server.metric("pull_wait_seconds_count", reason="lag") == 1

    async def test_parked_until_the_wait_runs_out(self, start, gradient):
        server = await start(mode="ssp", staleness=0)
        await server.offer()
        worker, _ = await server.join("w0"), await server.join("w1")
        await worker.step(gradient)
        parked = asyncio.create_task(worker.pull(wait=2))
        await server.until(lambda: len(server.runtime.machine.groups["default"].waiting))
        server.advance(1.9)
        await asyncio.sleep(0)
        assert not parked.done()
        server.advance(0.2)
        reply = await parked
        assert (reply.status, json.loads(reply.headers["leeway-reason"])["reason"]) == (204, "lag")

    async def test_a_newer_pull_takes_the_place_of_the_parked_one(self, start, gradient):
        server = await start(mode="ssp", staleness=0)
        await server.offer()
        worker, other = await server.join("w0"), await server.join("w1")
        await worker.step(gradient)
        first = asyncio.create_task(worker.pull(wait=20))
        group = server.runtime.machine.groups["default"]
        await server.until(lambda: len(group.waiting))
        second = asyncio.create_task(worker.pull(wait=20))
        assert json.loads((await first).headers["leeway-reason"])["reason"] == "replaced"
        await other.step(gradient)
        assert (await second).status == 200

    async def test_forgotten_when_its_client_goes_away(self, start, gradient):
        server = await start(mode="ssp", staleness=0)
        await server.offer()
        worker, other = await server.join("w0"), await server.join("w1")
        await worker.step(gradient)
        group = server.runtime.machine.groups["default"]
        async with server.connect() as connection:
            await connection.send_head("GET", worker.pull_target(), {"Accept": FRAME, "Prefer": "wait=20"})
            await server.until(lambda: len(group.waiting))
        await server.until(lambda: not len(group.waiting))
        assert not server.runtime.askers
        await other.step(gradient)
        assert (await worker.pull()).frame.message["clock"] == 1

    async def test_stopping_answers_the_parked_at_once(self, start):
        server = await start(mode="sync")
        parked = [asyncio.create_task(server.get("/v1/params", {"Prefer": "wait=20"})) for _ in range(3)]
        await server.until(lambda: len(server.runtime.machine.groups["default"].waiting) == 3)
        server.runtime.stop()
        for reply in await asyncio.gather(*parked):
            reply.refused(503, "stopping")
            assert reply.headers["retry-after"] == "1"

    async def test_waits_until_there_is_anything(self, start):
        server = await start(mode="async")
        worker = await server.join("w0")
        assert json.loads((await worker.pull()).headers["leeway-reason"])["reason"] == "no-parameters"
        parked = asyncio.create_task(worker.pull(wait=20))
        await server.until(lambda: len(server.runtime.machine.groups["default"].waiting))
        await server.offer()
        assert (await parked).status == 200


class TestBarrier:
    async def test_passes_when_all_have_arrived(self, server, worker):
        other = await server.join("w1")
        early = await server.post("/v1/barriers/start", {**worker.life, "generation": 0})
        assert early.status == 204
        assert json.loads(early.headers["leeway-reason"]) == {
            "reason": "barrier",
            "detail": "barrier start/0 waits for w1",
            "waiting_for": ["w1"],
        }
        parked = asyncio.create_task(
            server.post("/v1/barriers/start", {**worker.life, "generation": 0}, {"Prefer": "wait=20"})
        )
        await server.until(lambda: server.runtime.askers)
        last = await server.post("/v1/barriers/start", {**other.life, "generation": 0})
        assert (last.status, last.json) == (200, {"name": "start", "generation": 0})
        assert (await parked).json == last.json
        # Asked again it returns at once, and the next generation is another matter.
        assert (await server.post("/v1/barriers/start", {**worker.life, "generation": 0})).status == 200
        assert (await server.post("/v1/barriers/start", {**worker.life, "generation": 1})).status == 204
        assert (await server.get("/v1/status")).json["barriers"] == {"start": 1}

    async def test_a_generation_that_is_not_open_yet(self, server, worker):
        reply = await server.post("/v1/barriers/b", {**worker.life, "generation": 3})
        assert reply.refused(422, "invalid-value", "generation 0", "3")["generation"] == 0


class TestPolicy:
    async def test_see_and_change(self, server, worker, gradient):
        assert (await server.get("/v1/policy")).json == {
            "group": "default",
            "mode": "async",
            "staleness": None,
            "switching_at": None,
        }
        reply = await server.put("/v1/policy", {"mode": "ssp", "staleness": 2})
        assert (reply.json["mode"], reply.json["staleness"]) == ("ssp", 2)
        # Nothing is lost: the pull of before is pushed now.
        assert (await worker.push(gradient)).json["disposition"] == "applied"

    async def test_towards_sync_it_says_from_which_clock(self, server, worker):
        await server.put("/v1/policy", {"mode": "sync"})
        assert (await server.get("/v1/policy")).json == {
            "group": "default",
            "mode": "sync",
            "staleness": None,
            "switching_at": 1,
        }

    async def test_away_from_sync_with_a_joiner_parked(self, start, gradient):
        """The round is closed as one step; the joiner is answered with a version that is whole."""
        server = await start(mode="sync", workers=2)
        await server.offer()
        workers = [await server.join("w0"), await server.join("w1")]
        for worker in workers:
            await worker.pull()
        await workers[0].push(gradient)
        joiner = await server.join("w2")
        parked = asyncio.create_task(joiner.pull(wait=20))
        await server.until(lambda: len(server.runtime.machine.groups["default"].waiting))
        assert (await server.put("/v1/policy", {"mode": "async"})).status == 200
        reply = await parked
        assert reply.status == 200
        step = 0.1 * (int(reply.headers["etag"].strip('"').partition(".")[2]) - 1)
        assert np.allclose(arrays(reply)["bias"], 1 - step)
        assert (await workers[1].push(gradient)).json["disposition"] == "applied"


class TestStatusAndHealth:
    async def test_status_answers_why_and_for_whom(self, server, worker):
        told = (await server.get("/v1/status")).json
        assert told["groups"]["default"]["version"] == 1
        assert told["groups"]["default"]["tensors"] == 4
        assert told["groups"]["default"]["live_versions"] == 1
        assert [one["rank"] for one in told["workers"]] == ["w0"]
        progress = {"clock": 0, "lag": 0, "state": "computing", "waiting_seconds": 0.0, "held_seconds": 0.0}
        assert told["workers"][0]["groups"]["default"] == progress | {"late_updates": 0, "newest_late": False}

    async def test_ready_when_there_is_something_to_pull(self, start):
        server = await start()
        assert (await server.get("/livez")).json == {"live": True}
        reply = await server.get("/readyz")
        assert (reply.status, reply.json) == (503, {"ready": False, "detail": "no parameters yet in default"})
        await server.offer()
        reply = await server.get("/readyz")
        assert (reply.status, reply.json) == (200, {"ready": True, "detail": "ready"})
        server.runtime.stop()
        assert (await server.get("/readyz")).json == {"ready": False, "detail": "the server is stopping"}

    async def test_its_own_description(self, server):
        reply = await server.get("/openapi.yaml")
        assert (reply.status, reply.kind) == (200, "application/yaml")
        assert reply.body.startswith(b"openapi: 3.1")


class TestCheckpoints:
    async def test_without_a_state_directory(self, server):
        assert (await server.get("/v1/checkpoints")).json == {"checkpoints": []}
        (await server.post("/v1/checkpoints")).refused(409, "no-state-dir", "--state-dir")

    async def test_save_and_list(self, start, tmp_path):
        server = await start(mode="async", state_dir=tmp_path / "state")
        await server.offer()
        reply = await server.post("/v1/checkpoints")
        assert reply.status == 201
        assert reply.json["why"] == "request"
        (listed,) = (await server.get("/v1/checkpoints")).json["checkpoints"]
        assert (listed["checkpoint"], listed["bytes"]) == (reply.json["checkpoint"], reply.json["bytes"])
        assert server.metric("checkpoints_total", outcome="saved") == 1


class TestGroups:
    async def test_each_has_its_own_values_and_policy(self, start):
        from leeway.ps.settings.config import ServerConfig

        config = ServerConfig(mode="async").with_groups({"head": {"keys": ["bias"], "mode": "ssp", "staleness": 1}})
        server = await start(mode="async", named_groups=config.named_groups)
        await server.offer()
        assert sorted(arrays(await server.get("/v1/params?group=head", {"Accept": FRAME}))) == ["bias"]
        assert sorted(await server.values()) == ["mean", "seen", "weight"]
        assert (await server.get("/v1/policy?group=head")).json["staleness"] == 1
        worker = await server.join("w0")
        await worker.pull(group="head")
        async with server.untouched():
            reply = await worker.push({"weight": MODEL["weight"]}, group="head")
            reply.refused(422, "unknown-tensor", "'weight'")
        assert (await worker.push({"bias": MODEL["bias"]}, group="head")).json["disposition"] == "applied"
