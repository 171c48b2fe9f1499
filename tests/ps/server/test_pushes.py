"""Pushes over HTTP: what becomes of them, and what those that do not fit are told (the contract, *Pairing*)."""

import asyncio

import numpy as np
import pytest
from structlog.testing import capture_logs

from tests.ps.server.holding import hold_the_applier


class TestOnArrival:
    async def test_is_applied(self, server, worker, gradient):
        reply = await worker.push(gradient)
        assert reply.status == 200
        assert reply.json == {
            "clock": 0,
            "disposition": "applied",
            "reason": "on-arrival",
            "version": 2,
            "staleness": 0,
        }
        assert np.allclose((await server.values())["bias"], 0.9)
        assert server.metric("pushes_total", group="default", disposition="applied", reason="on-arrival") == 1

    async def test_staleness_is_told(self, server, worker, gradient):
        other = await server.join("w1")
        await other.pull()
        await worker.push(gradient)
        assert (await other.push(gradient)).json["staleness"] == 1

    async def test_a_delta_is_subtracted(self, start):
        server = await start(mode="async", workers=2, lr=1.0)
        await server.join("w1")
        await server.offer({"weight": np.zeros(3, np.float32)})
        worker = await server.join("w0")
        await worker.pull()
        await worker.push({"weight": np.full(3, 4, np.float32)}, kind="delta")
        # By 1 / workers, and the rate.
        assert np.array_equal((await server.values())["weight"], [-2, -2, -2])

    async def test_whole_weights_are_refused_with_the_word_for_what_is_taken(self, server, worker):
        async with server.untouched():
            reply = await worker.push({"weight": np.zeros((4, 3), np.float32)}, kind="model")
            reply.refused(422, "invalid-value", "kind model", "async", "push a delta")

    async def test_some_of_the_tensors(self, server, worker):
        await worker.push({"bias": np.ones(3, np.float32)})
        values = await server.values()
        assert np.allclose(values["bias"], 0.9)
        assert np.array_equal(values["weight"].ravel(), np.arange(12))

    async def test_what_it_reports_is_shown(self, server, worker, gradient):
        await worker.push(gradient, metrics={"loss": 0.5, "steps": 3, "bad": float("nan")})
        (shown,) = (await server.get("/v1/status")).json["workers"]
        # JSON has no NaN.
        assert shown["reported"] == {"loss": 0.5, "steps": 3.0, "bad": None}


class TestParts:
    async def test_staged_until_the_last(self, server, worker):
        weight, bias = {"weight": np.ones((4, 3), np.float32)}, {"bias": np.ones(3, np.float32)}
        reply = await worker.push(bias, part=1, parts=2)
        assert (reply.status, reply.json) == (202, {"clock": 0, "missing": [0]})
        again = await worker.push(bias, part=1, parts=2)
        assert (again.status, again.json) == (202, {"clock": 0, "missing": [0]})
        reply = await worker.push(weight, part=0, parts=2)
        assert (reply.status, reply.json["disposition"]) == (200, "applied")
        values = await server.values()
        assert np.allclose(values["bias"], 0.9)
        assert np.allclose(values["weight"].ravel(), np.arange(12) - 0.1)

    @pytest.mark.parametrize("changes", [{"samples": 9}, {"kind": "delta"}, {"parts": 3}])
    async def test_that_do_not_agree(self, server, worker, changes):
        await worker.push({"bias": np.ones(3, np.float32)}, part=0, parts=2)
        async with server.untouched():
            reply = await worker.push({"weight": np.ones((4, 3), np.float32)}, **({"part": 1, "parts": 2} | changes))
            reply.refused(422, "inconsistent-parts", "does not agree")

    async def test_that_share_a_tensor(self, server, worker, gradient):
        await worker.push({"bias": np.ones(3, np.float32)}, part=0, parts=2)
        async with server.untouched():
            (await worker.push(gradient, part=1, parts=2)).refused(422, "inconsistent-parts", "'bias'")

    async def test_leaving_drops_what_is_staged(self, server, worker):
        await worker.push({"bias": np.ones(3, np.float32)}, part=0, parts=2)
        assert len(server.runtime.bodies) == 1
        await worker.leave()
        assert not server.runtime.bodies


class TestRepeated:
    async def test_gets_the_same_disposition_and_is_applied_once(self, server, worker, gradient):
        body = worker.push_body(gradient)
        first = await server.push(body)
        async with server.untouched():
            again = await server.push(body)
            assert again.status == first.status
            assert again.json == first.json | {"reason": "repeated"}
        assert server.metric("pushes_total") == 1

    async def test_is_not_judged_by_its_tensors(self, server, worker, gradient):
        """A repeat is told what became of the first, whatever it carries."""
        await worker.push(gradient)
        async with server.untouched():
            reply = await worker.push({"nope": np.full(1, np.nan, np.float32)}, clock=0)
            assert reply.json["reason"] == "repeated"

    async def test_even_after_the_end_of_its_life(self, server, worker, gradient):
        body = worker.push_body(gradient)
        await server.push(body)
        server.advance(60.0)
        async with server.untouched():
            assert (await server.push(body)).json["disposition"] == "applied"

    async def test_while_the_first_is_being_applied_it_waits(self, server, worker, gradient):
        pins = hold_the_applier(server)
        body = worker.push_body(gradient)
        first = asyncio.create_task(server.push(body))
        await server.until(lambda: server.runtime.machine.groups["default"].in_flight)
        again = asyncio.create_task(server.push(body))
        record = server.runtime.machine.membership.of_rank("w0").groups["default"].record
        await server.until(lambda: len(record.waiters) == 2)
        assert not first.done()
        pins.clear()
        assert (await first).json["reason"] == "on-arrival"
        assert (await again).json == (await first).json | {"reason": "repeated"}

    async def test_held_in_a_round(self, start, gradient):
        server = await start(mode="sync", workers=2)
        await server.offer()
        workers = [await server.join("w0"), await server.join("w1")]
        for worker in workers:
            await worker.pull()
        body = workers[0].push_body(gradient)
        first = await server.push(body)
        assert (first.status, first.json["disposition"], first.json["reason"]) == (202, "held", "in-round")
        async with server.untouched():
            again = await server.push(body)
            assert (again.status, again.json) == (202, first.json | {"reason": "repeated"})


class TestThatDoNotFit:
    async def test_superseded(self, server, worker, gradient):
        old = worker.push_body(gradient)
        await server.push(old)
        worker.clock = 1
        await worker.step(gradient)
        async with server.untouched():
            problem = (await server.push(old)).refused(409, "superseded", "iteration 0", "clock is 2")
            assert problem["clock"] == 2

    async def test_not_granted(self, server, gradient):
        worker = await server.join("w0")
        async with server.untouched():
            reply = await worker.push(gradient, version=1)
            assert reply.refused(409, "not-granted", "iteration 0 of w0#1")["clock"] == 0

    async def test_computed_from_a_version_that_was_not_granted(self, server, worker, gradient):
        async with server.untouched():
            (await worker.push(gradient, version=7)).refused(409, "not-granted", "version 7", "version 1")

    async def test_another_iteration(self, server, worker, gradient):
        async with server.untouched():
            assert (await worker.push(gradient, clock=3)).refused(409, "wrong-clock", "iteration 3")["clock"] == 0

    async def test_old_epoch(self, server, worker, gradient):
        epoch = server.runtime.machine.epoch
        async with server.untouched():
            problem = (await worker.push(gradient, epoch=7)).refused(409, "old-epoch", "epoch 7", str(epoch))
            assert problem["epoch"] == epoch

    async def test_old_epoch_is_told_before_the_tensors_are_looked_at(self, server, worker):
        async with server.untouched():
            (await worker.push({"nope": np.full(1, np.nan, np.float32)}, epoch=7)).refused(409, "old-epoch")
        assert server.metric("non_finite_total") == 0

    async def test_never_joined(self, server, worker, gradient):
        async with server.untouched():
            (await worker.push(gradient, rank="stranger")).refused(409, "not-joined", "stranger#1", "join first")
            (await worker.push(gradient, incarnation=2)).refused(409, "not-joined", "w0#2")

    async def test_unknown_group(self, server, worker, gradient):
        async with server.untouched():
            (await worker.push(gradient, group="nobody")).refused(422, "unknown-group", "'nobody'", "default")

    @pytest.mark.parametrize(("end", "status", "code"), [("leave", 410, "left"), ("evict", 410, "evicted")])
    async def test_ended_incarnation(self, server, worker, gradient, end, status, code):
        await worker.step(gradient)
        await worker.pull()
        if end == "leave":
            await worker.leave()
        else:
            server.advance(60.0)
        async with server.untouched():
            problem = (await worker.push(gradient)).refused(status, code, "w0#1")
            assert problem["last"] == {"default": {"clock": 0, "disposition": "applied"}}

    async def test_fenced_by_a_newer_session(self, server, worker, gradient):
        newer = await server.join("w0")
        assert newer.incarnation == 2
        async with server.untouched():
            reply = await worker.push(gradient)
            assert reply.refused(409, "fenced", "w0#1", "replaced by a new process")["last"] == {}

    async def test_whole_weights_of_a_round_are_averaged(self, start):
        server = await start(mode="sync", workers=2, lr=1.0)
        await server.offer({"weight": np.full(3, 9, np.float32), "other": np.ones(3, np.float32)})
        workers = [await server.join("w0"), await server.join("w1")]
        for worker in workers:
            await worker.pull()
        broken = {"weight": np.array([1, np.nan, 1], np.float32)}
        (await workers[0].push(broken, kind="model")).refused(422, "non-finite", "weight")
        await workers[0].push({"weight": np.full(3, 1, np.float32)}, kind="model", samples=3)
        await workers[1].push(
            {"weight": np.full(3, 5, np.float32), "other": np.full(3, 5, np.float32)}, kind="model", samples=1
        )
        values = await server.values()
        assert np.array_equal(values["weight"], [2, 2, 2])
        # Who has not sent it has not moved it.
        assert np.array_equal(values["other"], [2, 2, 2])

    async def test_another_kind_in_the_same_round(self, start, gradient):
        server = await start(mode="sync", workers=2)
        await server.offer()
        workers = [await server.join("w0"), await server.join("w1")]
        for worker in workers:
            await worker.pull()
        await workers[0].push(gradient)
        async with server.untouched():
            (await workers[1].push(gradient, kind="delta")).refused(422, "invalid-value", "gradient", "delta")
        # The round is still open to the right kind.
        assert (await workers[1].push(gradient)).status == 202

    async def test_finished(self, start, gradient):
        server = await start(mode="async", until=1)
        await server.offer()
        worker = await server.join("w0")
        await worker.step(gradient)
        assert (await worker.pull()).refused(410, "finished", "clock 1")["clock"] == 1
        assert server.runtime.finished.is_set()

    async def test_while_stopping(self, server, worker, gradient):
        server.runtime.stop()
        reply = await worker.push(gradient)
        reply.refused(503, "stopping", "ask again")
        assert reply.headers["retry-after"] == "1"
        assert not server.runtime.bodies


class TestOptimizerOnALiveRun:
    async def test_the_next_step_uses_the_new_rate(self, server, worker, gradient):
        told = (await server.put("/v1/optimizer", {"lr": 0.5})).json
        assert (told["lr"], told["learning_rate"], told["steps"]) == (0.5, 0.5, 0)
        await worker.push(gradient)
        assert np.allclose((await server.values())["bias"], 0.5)
        assert (await server.get("/v1/optimizer")).json["steps"] == 1

    async def test_two_changes_at_once_both_stand(self, server, worker):
        pins = hold_the_applier(server)
        waiting = asyncio.create_task(worker.push({"bias": np.ones(3, np.float32)}))
        await server.until(lambda: not server.runtime.publishing.appliers["default"].idle)
        changes = [asyncio.create_task(server.put("/v1/optimizer", body)) for body in ({"lr": 0.5}, {"clip_norm": 9.0})]
        jobs = server.runtime.publishing.appliers["default"]._jobs
        await server.until(lambda: len(jobs) == 3)
        pins.clear()
        assert [(await change).status for change in changes] == [200, 200]
        await waiting
        told = (await server.get("/v1/optimizer")).json
        assert (told["lr"], told["clip_norm"]) == (0.5, 9.0)

    async def test_whose_asker_goes_away_does_not_stop_the_steps(self, server, worker, gradient):
        pins = hold_the_applier(server)
        pushed = asyncio.create_task(worker.push(gradient))
        applier = server.runtime.publishing.appliers["default"]
        await server.until(lambda: not applier.idle)
        async with server.connect() as connection:
            await connection.send_head("PUT", "/v1/optimizer", {"Content-Length": 11})
            await connection.send(b'{"lr": 0.5}')
            await server.until(lambda: len(applier._jobs) == 2)
        other = await server.join("w1")
        await other.pull()
        second = asyncio.create_task(other.push(gradient))
        await server.until(lambda: len(applier._jobs) == 3)
        pins.clear()
        assert (await pushed).status == 200
        assert (await second).status == 200
        assert (await server.get("/v1/optimizer")).json["lr"] == 0.5


class TestValues:
    """Trainable tensors that are set, in place of being stepped."""

    @pytest.mark.parametrize("kind", ["gradient", "delta"])
    async def test_on_arrival(self, server, worker, gradient, kind):
        reply = await worker.push(gradient | {"bias": np.full(3, 7, np.float32)}, kind=kind, values=["bias"])
        assert reply.json["disposition"] == "applied"
        values = await server.values()
        assert np.array_equal(values["bias"], [7, 7, 7])
        assert np.allclose(values["weight"].ravel(), np.arange(12) - 0.1)

    async def test_in_a_round_the_first_in_rank_order(self, start):
        server = await start(mode="sync", workers=2, lr=1.0)
        await server.offer({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})
        workers = [await server.join(rank) for rank in ("w10", "w2")]
        await asyncio.gather(*(worker.pull() for worker in workers))
        for number, worker in enumerate(workers, 1):
            sent = {"a": np.ones(2, np.float32), "b": np.full(2, number, np.float32)}
            await worker.push(sent, values=["b"])
        await server.until(lambda: server.runtime.parameters["default"].versions.current.number == 2)
        values = await server.values()
        assert values["b"].tolist() == [2, 2]
        assert values["a"].tolist() == [-1, -1]

    async def test_what_is_not_finite_passes_as_a_value_alone(self, server, worker, gradient):
        infinite = gradient | {"bias": np.full(3, -np.inf, np.float32)}
        (await worker.push(infinite)).refused(422, "non-finite", "'bias'")
        assert (await worker.push(infinite, values=["bias"])).status == 200
        assert np.isneginf((await server.values())["bias"]).all()

    async def test_names_that_do_not_fit(self, server, worker, gradient):
        async with server.untouched():
            (await worker.push(gradient, values=["nope"])).refused(400, "malformed-request", "'nope'")
            (await worker.push(gradient, values="bias")).refused(400, "malformed-request", "'values'")
            reply = await worker.push(gradient, values=["seen"])
            reply.refused(422, "wrong-tensor", "'seen' has kind integer-buffer, which is a value in every push")


class TestTheSameUpdateOfTwoRanks:
    async def begin(self, start, mode, shape=150, **settings):
        server = await start(mode=mode, workers=2, lr=1.0, **settings)
        await server.offer({"weight": np.zeros(shape, np.float32), "mean": np.zeros(200, np.float32)})
        workers = [await server.join(rank) for rank in ("w0", "w1")]
        for worker in workers:
            await worker.pull()
        return server, workers

    async def heard(self, workers, weights, kind="gradient"):
        with capture_logs() as lines:
            for place, (worker, weight) in enumerate(zip(workers, weights, strict=True)):
                # Buffers are of each worker's own.
                mean = np.full(200, place, np.float32)
                await worker.push({"weight": np.array(weight, np.float32), "mean": mean}, kind=kind)
        return [line for line in lines if line["event"] == "same updates"]

    async def test_in_a_round_their_values_are_compared_and_it_is_told_once(self, start):
        server, workers = await self.begin(start, "sync")
        (line,) = await self.heard(workers, [[1, -2, 3] * 50] * 2)
        assert (line["log_level"], line["group"], line["rank"], line["other"]) == ("warning", "default", "w1", "w0")
        assert line["detail"].startswith(
            "w0 and w1 push the same update, as of iteration 0: do both read the same data?"
        )
        (told,) = [one for one in server.runtime.decisions.after(None) if one.kind == "same-updates"]
        assert (told.group, told.rank, told.detail) == ("default", "w1", line["detail"])
        for worker in workers:
            await worker.pull()
        assert await self.heard(workers, [[1, -2, 3] * 50] * 2) == []

    async def test_on_arrival_the_other_one_is_gone(self, start):
        _, workers = await self.begin(start, "async")
        (line,) = await self.heard(workers, [[1, -2, 3] * 50] * 2, "delta")
        assert line["detail"].startswith("w0 and w1 push most likely the same update")

    async def test_large_ones(self, start):
        _, workers = await self.begin(start, "sync", 100_000)
        values = np.random.default_rng(1).standard_normal((2, 100_000), np.float32)
        values[1] = values[0]
        assert len(await self.heard(workers, values)) == 1

    async def test_the_same_numbers_are_no_proof(self, start):
        _, workers = await self.begin(start, "sync", 4096)
        one = np.ones(4096, np.float32)
        other = one.copy()
        other[-2:] = 0, 2  # the sum and the beginning are the same
        assert await self.heard(workers, [one, other]) == []

    @pytest.mark.parametrize("zero", [0.0, -0.0])
    async def test_on_arrival_rows_far_behind_zeros_are_no_proof(self, start, zero):
        """Two rows of an embedding, each used by one worker alone: the sum and the beginning are the same."""
        _, workers = await self.begin(start, "async", 4096)
        one, other = np.full((2, 4096), zero, np.float32)
        one[2000:2003] = other[3000:3003] = 1, 2, 3
        assert await self.heard(workers, [one, other]) == []

    async def test_in_a_round_they_are_compared(self, start):
        _, workers = await self.begin(start, "sync", 4096)
        one = np.zeros(4096, np.float32)
        one[2000:2003] = 1, 2, 3
        assert len(await self.heard(workers, [one, one])) == 1

    @pytest.mark.parametrize("mode", ["sync", "async"])
    @pytest.mark.parametrize(
        ("weights", "settings"),
        [
            ([[0] * 150] * 2, {}),
            ([[1, -1, 1]] * 2, {}),
            ([[1, 2, 3] * 50, [3, 2, 1] * 50], {}),
            ([[1, 2, 3] * 50] * 2, {"non_finite": "off"}),
        ],
        ids=["zero", "few elements, whatever the buffers", "another order", "nobody looks"],
    )
    async def test_no_false_alarm(self, start, mode, weights, settings):
        _, workers = await self.begin(start, mode, len(weights[0]), **settings)
        assert await self.heard(workers, weights) == []

    async def test_skips_and_whole_weights(self, start):
        _, workers = await self.begin(start, "sync")
        assert await self.heard(workers, [[1, 2, 3] * 50] * 2, "model") == []
        with capture_logs() as lines:
            for worker in workers:
                await worker.pull()
                await worker.push({}, kind="skip", samples=0)
        assert not [line for line in lines if line["event"] == "same updates"]
