"""What is told of a run: every series of the catalogue, and that each counts what it says."""

import asyncio
import math
import shutil

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from leeway.ps.settings.config import GroupConfig
from leeway.ps.watching.catalogue import CATALOGUE
from tests.ps.server.eventful import SETTINGS, live_through

MODEL_BYTES = 256  # four tensors, each at a multiple of 64


async def exposed(server):
    """All samples of ours as they are scraped: name and labels -> value."""
    text = (await server.get("/metrics")).body.decode()
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith("leeway_")]
    return {(one.name, *sorted(one.labels.items())): one.value for family in families for one in family.samples}


class TestEventfulRun:
    async def test_every_series_of_the_catalogue_has_samples(self, start, tmp_path):
        server = await start(**SETTINGS, state_dir=tmp_path)
        waiting = await live_through(server)
        shown = {name for name, *_ in await exposed(server)}
        suffix = {"histogram": "_count"}
        with_tls = {"leeway_server_certificate_expiry_timestamp_seconds"}
        assert {metric.name + suffix.get(metric.type, "") for metric in CATALOGUE} - with_tls <= shown
        server.runtime.stop()
        await waiting

    async def test_counts_what_has_happened(self, start, tmp_path):
        server = await start(**SETTINGS, state_dir=tmp_path)
        waiting = await live_through(server)
        metric = server.metric
        assert metric("steps_total") == 4
        assert metric("pushes_total", disposition="held", reason="in-round") == 3
        assert metric("pushes_total", disposition="applied", reason="on-arrival") == 3
        assert metric("update_bytes_count") == 6
        assert metric("update_bytes_sum") == 6 * MODEL_BYTES
        assert metric("spared_bytes_total") == MODEL_BYTES
        assert metric("switches_total") == 1
        assert metric("round_seconds_count") == 2, "the second one was closed by the switch"
        assert metric("grant_lag_count") == 3 + 2 + 1
        assert metric("refused_total", route="/v1/updates", code="non-finite") == 1
        assert metric("departures_total", reason="left") == 1
        assert metric("departures_total", reason="lease-expired") == 0
        assert metric("policy", mode="ssp") == 1
        assert metric("staleness_bound") == 0
        assert metric("learning_rate") == 0.5
        assert metric("reported", rank="w1", figure="loss") == 0.5
        assert math.isnan(metric("reported", rank="w0", figure="loss"))
        assert metric("stages_missing", rank="r0") == 3
        assert metric("checkpoints_total", outcome="saved") == 1
        (file,) = tmp_path.glob("**/checkpoint-*")
        assert metric("checkpoint_bytes_total") == file.stat().st_size
        assert metric("checkpoint_timestamp_seconds") == pytest.approx(file.stat().st_mtime, abs=60)
        server.runtime.stop()
        await waiting

    async def test_tells_who_waits_for_whom_and_how_long(self, start, tmp_path):
        server = await start(**SETTINGS, state_dir=tmp_path)
        waiting = await live_through(server)
        assert server.metric("waiting_seconds_total", rank="w0") == pytest.approx(3.0)
        assert server.metric("waiting_seconds_total", rank="w1") == 0.0
        assert server.metric("barrier_held_seconds_total", rank="w1") == pytest.approx(3.0)
        ahead, behind = (await server.get("/v1/status")).json["workers"]
        assert ahead["groups"]["default"]["waiting_seconds"] == 3.0
        assert ahead["groups"]["default"]["why"]["waiting_for"] == ["w1"]
        assert behind["groups"]["default"]["held_seconds"] == 3.0
        server.runtime.stop()
        await waiting

    async def test_status_tells_steps_updates_and_staleness(self, start, tmp_path):
        server = await start(**SETTINGS, state_dir=tmp_path)
        waiting = await live_through(server)
        told = (await server.get("/v1/status")).json
        assert set(told["program"]) == {"version"}
        assert told["time"] > 1.7e9
        group = told["groups"]["default"]
        assert (group["steps"], group["updates"]) == (4, 6)
        assert group["staleness"]["bounds"] == [0, 1, 2, 3, 5, 8, 13, 21, 34, 55]
        # Of ssp's three updates w0's first was computed while w1's was applied.
        assert group["staleness"]["counts"] == [5, 1, *[0] * 9]
        server.runtime.stop()
        await waiting


class TestPushes:
    async def test_a_push_whose_asker_is_gone_is_counted(self, start):
        """Under sync the push is held at once, and its sender goes away while it waits for the next parameters."""
        server = await start(mode="sync", workers=2)
        await server.offer()
        workers = [await server.join(rank) for rank in ("w0", "w1")]
        for worker in workers:
            await worker.pull()
        group = server.runtime.machine.groups["default"]
        body = {"bias": np.ones(3, np.float32)}
        pushing = asyncio.create_task(workers[0].push(body, query="?pull=1", wait=100, metrics={"loss": 1.5}))
        await server.until(lambda: len(group.waiting))
        assert server.metric("pushes_total", disposition="held") == 1
        assert server.metric("reported", rank="w0", figure="loss") == 1.5
        pushing.cancel()
        await asyncio.wait([pushing])
        await server.until(lambda: not len(group.waiting))
        await workers[1].push(body)
        assert server.metric("pushes_total", disposition="held") == 2
        assert server.metric("update_bytes_count") == 2

    async def test_a_repeat_is_not_counted_again(self, server, worker, gradient):
        body = worker.push_body(gradient, metrics={"loss": 1.0})
        for _ in range(3):
            assert (await server.push(body)).json["disposition"] == "applied"
        assert server.metric("pushes_total", disposition="applied") == 1
        assert (await server.get("/v1/status")).json["groups"]["default"]["updates"] == 1

    async def test_a_skip_is_no_update(self, server, worker):
        reply = await server.push(worker.push_body(None, kind="skip", samples=0))
        assert reply.json["disposition"] == "skipped"
        assert server.metric("pushes_total", disposition="skipped", reason="skipped") == 1
        assert (await server.get("/v1/status")).json["groups"]["default"]["updates"] == 0

    async def test_a_held_repeat_is_not_counted_again(self, start, gradient):
        server = await start(mode="sync", workers=2)
        await server.offer()
        workers = [await server.join(rank) for rank in ("w0", "w1")]
        await workers[1].pull()
        await workers[0].pull()
        body = workers[0].push_body(gradient)
        for _ in range(3):
            assert (await server.push(body)).json["disposition"] == "held"
        assert server.metric("pushes_total", disposition="held") == 1


class TestPulls:
    async def test_a_push_that_changes_nothing_spares_the_parameters(self, server, worker):
        since = f"{worker.epoch}.{worker.version}"
        body = worker.push_body(None, kind="skip", samples=0)
        told = (await server.push(body, query=f"?pull=1&since={since}")).frame.message
        assert told["pull"]["unchanged"]
        assert server.metric("spared_bytes_total") == MODEL_BYTES

    async def test_a_pull_refused_behind_a_push_is_one_of_its_own_route(self, start, gradient):
        server = await start(mode="async", until=1)
        await server.offer()
        worker = await server.join("w0")
        await worker.pull()
        await worker.push(gradient, query="?pull=1")
        assert server.metric("refused_total", route="/v1/params", code="finished") == 1

    async def test_readers_have_no_lag(self, server):
        await server.get("/v1/params")
        assert server.metric("grant_lag_count") == 0


class TestRounds:
    async def test_their_time_is_that_from_opening_to_the_last_push(self, start, gradient):
        server = await start(mode="sync", workers=2)
        await server.offer()
        workers = [await server.join(rank) for rank in ("w0", "w1")]
        for seconds in (4.0, 2.0):
            for worker in workers:
                await worker.pull()
            await workers[0].push(gradient)
            server.clock.now += seconds
            await workers[1].push(gradient)
        assert server.metric("round_seconds_count") == 2
        assert server.metric("round_seconds_sum") == pytest.approx(6.0)

    async def test_one_that_was_saved_open_is_open_since_the_start(self, start, gradient, tmp_path):
        server = await start(mode="sync", workers=2, state_dir=tmp_path / "state")
        await server.offer()
        workers = [await server.join(rank) for rank in ("w0", "w1")]
        for worker in workers:
            await worker.pull()
        await workers[0].push(gradient)
        await server.post("/v1/checkpoints")
        folder = shutil.copytree(tmp_path / "state", tmp_path / "copy")
        again = await start(mode="sync", workers=2, state_dir=folder, resume=True)
        begun = again.runtime._started_at
        again.clock.now = begun + 5.0
        workers[1].server = again
        await workers[1].join()
        await workers[1].pull()
        await workers[1].push(gradient)
        assert again.metric("round_seconds_sum") == pytest.approx(5.0, abs=0.1)


class TestWaits:
    GROUPS = (GroupConfig(name="second", keys=("w*",), mode="sync"),)

    @pytest.mark.parametrize(("named", "groups"), [((), [None]), (GROUPS, ["default", "second"])])
    async def test_name_the_group_where_there_are_several(self, start, named, groups):
        server = await start(mode="sync", workers=2, named_groups=named)
        await server.offer()
        worker = await server.join("w0")
        with capture_logs() as logs:
            for group in groups:
                pulling = asyncio.create_task(worker.pull(wait=100, **({"group": group} if group else {})))
                waiting = server.runtime.machine.groups[group or "default"].waiting
                await server.until(lambda room=waiting: len(room))
                pulling.cancel()
                await asyncio.wait([pulling])
        assert [line.get("group") for line in logs if line["event"] == "waits"] == groups
        decided = [line for line in server.runtime.decisions.after(None) if line.kind == "waits"]
        assert [(line.rank, line.group) for line in decided] == [("w0", group) for group in groups]


class TestPolicy:
    @pytest.mark.parametrize(
        ("grace", "logged", "words"), [(None, "auto", "auto"), ("auto", "auto", "auto"), (0.5, 0.5, "0.5 s")]
    )
    async def test_a_grace_is_told_as_people_write_it(self, start, grace, logged, words):
        server = await start(mode="sync", workers=3)
        with capture_logs() as logs:
            reply = await server.put("/v1/policy", {"mode": "sync", "quorum": 2, "grace_seconds": grace})
        assert (reply.json["quorum"], reply.json["grace_seconds"]) == (2, None if words == "auto" else grace)
        (line,) = [line for line in logs if line["event"] == "switched"]
        assert (line["quorum"], line["grace_seconds"]) == (2, logged)
        decided = server.runtime.decisions.after(None)[-1]
        assert decided.detail.startswith(f"to sync with a quorum of 2 and a grace of {words}, after version")

    async def test_is_the_one_in_force(self, start):
        server = await start(mode="ssp", staleness=3)
        assert server.metric("staleness_bound") == 3
        await server.put("/v1/policy", {"mode": "async"})
        shown = await exposed(server)
        assert ("leeway_server_policy", ("group", "default"), ("mode", "async")) in shown
        assert ("leeway_server_policy", ("group", "default"), ("mode", "ssp")) not in shown
        assert not [key for key in shown if key[0] == "leeway_server_staleness_bound"]
        assert server.metric("switches_total") == 1


class TestGradientNorm:
    async def test_is_measured_about_once_a_second(self, server, worker):
        async def norm_after(values):
            await worker.step({"bias": np.array(values, np.float32)})
            return server.metric("gradient_norm"), (await server.get("/v1/status")).json["groups"]["default"]

        norm, told = await norm_after([3, 4, 0])
        assert norm == told["gradient_norm"] == 5.0
        assert (await norm_after([6, 8, 0]))[0] == 5.0, "not yet due"
        server.clock.now += 1.0
        assert (await norm_after([6, 8, 0]))[0] == 10.0

    async def test_is_always_there_when_gradients_are_clipped(self, start):
        server = await start(mode="async", clip_norm=1.0)
        await server.offer()
        worker = await server.join("w0")
        for norm in (5.0, 10.0):
            await worker.step({"bias": np.array([norm, 0, 0], np.float32)})
            assert server.metric("gradient_norm") == norm

    async def test_one_that_is_not_finite_is_null_in_the_status(self, start):
        server = await start(mode="async", non_finite="warn")
        await server.offer()
        worker = await server.join("w0")
        await worker.step({"bias": np.array([np.inf, 0, 0], np.float32)})
        assert server.metric("gradient_norm") == math.inf
        assert (await server.get("/v1/status")).json["groups"]["default"]["gradient_norm"] is None


class TestUpdatesThatAreNotFinite:
    @pytest.mark.parametrize(("mode", "words"), [("refuse", "refused"), ("warn", "let through")])
    async def test_are_told_seldom_of_each_worker(self, start, mode, words):
        server = await start(mode="async", non_finite=mode)
        await server.offer()
        workers = [await server.join(rank) for rank in ("w0", "w1")]
        with capture_logs() as logs:
            for worker, times in zip(workers, (5, 1), strict=True):
                for _ in range(times):
                    await worker.pull()
                    await worker.push({"bias": np.array([np.nan, 0, 0], np.float32)})
                    if mode == "refuse":
                        await worker.push({}, kind="skip", samples=0)
        told = [line for line in logs if line["event"] == f"non-finite update {words}"]
        assert [(line["rank"], line["clock"], line["updates"]) for line in told] == [
            *(("w0", 0, 1), ("w0", 1, 2), ("w0", 3, 4), ("w1", 0, 1))
        ]
        decided = [line for line in server.runtime.decisions.after(None) if line.kind == "non-finite" and line.rank]
        assert [line.detail for line in decided] == [
            f"non-finite update {words}: 'bias' of iteration 0",
            f"non-finite update {words}: 'bias' of iteration 1; 2 of its updates were so",
            f"non-finite update {words}: 'bias' of iteration 3; 4 of its updates were so",
            f"non-finite update {words}: 'bias' of iteration 0",
        ]
        assert server.metric("non_finite_total") == 6

    async def test_a_new_life_is_told_at_once(self, start):
        server = await start(mode="async")
        await server.offer()
        with capture_logs() as logs:
            for session in ("first", "second"):
                worker = await server.join("w0", session=session)
                await worker.pull()
                for _ in range(3):
                    await worker.push({"bias": np.array([np.nan, 0, 0], np.float32)})
        told = [line["updates"] for line in logs if line["event"] == "non-finite update refused"]
        assert told == [1, 2, 1, 2]


class TestLateUpdates:
    async def test_are_counted_in_the_status_and_told_seldom(self, start, gradient):
        server = await start(mode="sync", workers=2, quorum=1, grace_seconds=0.0)
        await server.offer()
        workers = [await server.join(rank) for rank in ("w0", "w1")]

        async def late():
            shown = (await server.get("/v1/status")).json["workers"]
            progress = [worker["groups"]["default"] for worker in shown]
            return [(row["late_updates"], row["newest_late"]) for row in progress]

        async def granted():
            """A late one takes part in the round after the next."""
            while (await workers[1].pull()).status != 200:
                await workers[0].step(gradient)

        async def round_without_the_last():
            await granted()
            await workers[0].step(gradient)
            reply = await workers[1].push(gradient)
            assert reply.json["disposition"] == "late"
            workers[1].clock = reply.json["next_clock"]

        assert await late() == [(0, False), (0, False)]
        with capture_logs() as logs:
            for _ in range(4):
                await round_without_the_last()
        assert await late() == [(0, False), (4, True)]
        told = [line for line in logs if line["event"] == "late"]
        assert [(line["rank"], line["late"]) for line in told] == [("w1", 1), ("w1", 2), ("w1", 4)]
        assert told[2]["detail"].endswith("the round has closed without it; 4 of its updates were late")
        decided = [line for line in server.runtime.decisions.after(None) if line.kind == "late"]
        assert [(line.rank, line.reason) for line in decided] == [("w1", "round-closed")] * 3
        # In time once, then a new life.
        await granted()
        assert (await workers[1].push(gradient)).json["disposition"] == "held"
        assert await late() == [(0, False), (4, False)]
        await workers[1].join(session="another")
        assert await late() == [(0, False), (0, False)]


class TestVersionsThatAreNotFinite:
    async def test_are_published_and_told_each_tensor_at_once_and_again_as_they_go_on(self, start):
        server = await start(mode="async", non_finite="off", lr=1.0)
        await server.offer()
        worker = await server.join("w0")
        with capture_logs() as logs:
            for tensors in ({"bias": [np.inf, 0, 0]}, {"bias": [1, np.nan, 0]}, {"weight": [[np.nan] * 3] * 4}, {}, {}):
                await worker.step({name: np.array(values, np.float32) for name, values in tensors.items()})
        told = [line for line in logs if line["event"] == "a version is not finite"]
        assert [(line["log_level"], line["version"], line["tensor"]) for line in told] == [
            ("error", 2, "bias"),
            ("error", 3, "bias"),
            ("error", 4, "weight"),
            ("error", 5, "weight"),
        ]
        assert server.metric("non_finite_versions_total") == 5
        decided = [line for line in server.runtime.decisions.after(None) if line.kind == "non-finite"]
        assert [line.detail for line in decided] == [
            "version 2 has a NaN or an infinity in 'bias'",
            "version 3 has a NaN or an infinity in 'bias'; so it was in 2 versions in a row",
            "version 4 has a NaN or an infinity in 'weight'",
            "version 5 has a NaN or an infinity in 'weight' and 1 others; so it was in 4 versions in a row",
        ]

    async def test_a_rate_that_overflows_is_told_too(self, start):
        server = await start(mode="async", lr=1e6)
        await server.offer()
        worker = await server.join("w0")
        with capture_logs() as logs:
            await worker.step({"bias": np.array([3e38, 0, 0], np.float32)})
        assert [line["tensor"] for line in logs if line["event"] == "a version is not finite"] == ["bias"]

    async def test_offered_values_are_told_too(self, start):
        server = await start(mode="async")
        with capture_logs() as logs:
            await server.offer({"w": np.array([np.nan], np.float32)})
        assert [line["tensor"] for line in logs if line["event"] == "a version is not finite"] == ["w"]


class TestCheckpoints:
    async def test_have_no_age_where_none_are_saved(self, server):
        assert not [key for key in await exposed(server) if key[0] == "leeway_server_checkpoint_timestamp_seconds"]

    async def test_have_that_of_the_server_before_the_first(self, start, tmp_path):
        server = await start(state_dir=tmp_path)
        told = (await server.get("/v1/status")).json
        assert server.metric("checkpoint_timestamp_seconds") == pytest.approx(told["time"], abs=60)


async def test_the_series_asked_for_are_told_and_no_others(start):
    server = await start()
    asked = "/metrics?name[]=process_resident_memory_bytes&name[]=leeway_server_joins_total"
    text = (await server.get(asked)).body.decode()
    told = {line.split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    assert told == {"process_resident_memory_bytes", "leeway_server_joins_total"}


class TestSeveralGroups:
    async def test_figures_are_shown_once_for_each_worker(self, start):
        group = GroupConfig(name="second", keys=("w*",), mode="async")
        server = await start(mode="async", named_groups=(group,))
        await server.offer()
        worker = await server.join("w0")
        await worker.pull()
        await worker.push({"bias": np.ones(3, np.float32)}, metrics={"loss": 0.5})
        text = (await server.get("/metrics")).body.decode()
        assert text.count('leeway_server_reported{figure="loss",rank="w0"} 0.5') == 1
        assert {
            'leeway_server_clock{group="default",rank="w0"} 1.0',
            'leeway_server_clock{group="second",rank="w0"} 0.0',
        } <= (set(text.splitlines()))
