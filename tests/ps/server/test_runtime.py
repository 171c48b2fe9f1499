"""The runtime: events in their order, replies with the version they speak of, and what becomes of failures."""

import asyncio
import threading

import numpy as np
import pytest
from structlog.testing import capture_logs

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.decoder import decode
from leeway.protocol.reasons import Reason
from leeway.protocol.replies import Disposition, Granted, NotYet, Offered, PolicyState, Pushed, Refused
from leeway.protocol.requests import Join, Life, Offer, Pull, Push, SetPolicy, UpdateKind
from leeway.ps.arithmetic.guards import GuardMode
from leeway.ps.arithmetic.memory import Pool
from leeway.ps.arithmetic.parameters import Parameters
from leeway.ps.arithmetic.settings import OptimizerSettings
from leeway.ps.core.machine import GroupSettings, Machine, Settings
from leeway.ps.observability.metrics import ServerMetrics
from leeway.ps.server.applier import INLINE_BYTES, Job
from leeway.ps.server.runtime import Runtime
from tests.ps.server import rawclient
from tests.ps.server.serving import MODEL, Clock


@pytest.fixture
async def make():
    """Runtimes without a server around them."""
    made = []

    def make(mode="async", *, staleness=None, workers=1, **settings):
        machine = Machine(Settings((GroupSettings(mode, staleness),), workers=workers, **settings), epoch=7)
        pool = Pool()
        runtime = Runtime(
            machine,
            {"default": Parameters(OptimizerSettings(lr=1.0), pool, workers=workers)},
            pool=pool,
            guard_mode=GuardMode.REFUSE,
            metrics=ServerMetrics(),
            clock=Clock(),
        )
        made.append(runtime)
        return runtime

    yield make
    for runtime in made:
        for applier in runtime.appliers.values():
            applier.close()
        if runtime.failed.done():
            runtime.failed.exception()


def frame_of(tensors):
    return decode(rawclient.frame({}, tensors))


async def offered(runtime, tensors=MODEL):
    frame = frame_of(tensors)
    reply = (await runtime.ask(Offer(frame.specs), frame)).reply
    assert isinstance(reply, Offered)


async def joined(runtime, rank):
    reply = (await runtime.ask(Join(rank, f"session of {rank}"))).reply
    return Life(rank, reply.epoch, reply.incarnation)


def update(life, clock, version, *, round=None, tensors=MODEL):
    frame = frame_of(tensors)
    keys = tuple(spec.name for spec in frame.specs)
    return Push(life, clock, version, UpdateKind.GRADIENT, samples=1, keys=keys, round=round), frame


class TestAsking:
    async def test_a_grant_comes_with_its_version(self, make):
        runtime = make()
        await offered(runtime)
        outcome = await runtime.ask(Pull())
        assert isinstance(outcome.reply, Granted)
        assert outcome.version.number == outcome.reply.version.number == 1

    async def test_unchanged_comes_without(self, make):
        runtime = make()
        await offered(runtime)
        version = (await runtime.ask(Pull())).reply.version
        outcome = await runtime.ask(Pull(since=version))
        assert outcome.reply.unchanged
        assert outcome.version is None

    async def test_a_push_is_applied_and_its_body_let_go(self, make):
        runtime = make()
        await offered(runtime)
        life = await joined(runtime, "w0")
        await runtime.ask(Pull(life=life))
        outcome = await runtime.ask(*update(life, 0, 1))
        assert outcome.reply == Pushed(0, Disposition.APPLIED, Reason.ON_ARRIVAL, 2, 0)
        assert runtime.bodies == {}
        assert runtime.parameters["default"].versions.current.number == 2

    async def test_a_cancelled_asker_is_forgotten(self, make):
        runtime = make()
        asked = asyncio.create_task(runtime.ask(Pull(wait_seconds=100)))
        await asyncio.sleep(0)
        group = runtime.machine.groups["default"]
        assert len(group.waiting) == 1
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert len(group.waiting) == 0
        assert runtime._asking == {}

    async def test_a_cancelled_push_is_applied_all_the_same(self, make):
        runtime = make()
        large = {"weight": np.zeros(100_000, np.float32)}
        await offered(runtime, large)
        life = await joined(runtime, "w0")
        await runtime.ask(Pull(life=life))
        published = asyncio.Event()
        runtime.on_published = lambda group, number: published.set()
        asked = asyncio.create_task(runtime.ask(*update(life, 0, 1, tensors=large)))
        await asyncio.sleep(0)
        asked.cancel()
        async with asyncio.timeout(10):
            await published.wait()
        assert runtime.machine.groups["default"].published == 2
        # Who asks again is told.
        outcome = await runtime.ask(*update(life, 0, 1, tensors=large))
        assert (outcome.reply.disposition, outcome.reply.reason) == (Disposition.APPLIED, Reason.REPEATED)

    async def test_waits_run_out_with_a_tick(self, make):
        runtime = make()
        asked = asyncio.create_task(runtime.ask(Pull(wait_seconds=3)))
        await asyncio.sleep(0)
        runtime._clock.now += 3
        runtime.tick()
        reply = (await asked).reply
        assert isinstance(reply, NotYet)
        assert reply.reason is Reason.NO_PARAMETERS

    async def test_a_stopped_one_takes_nothing(self, make):
        runtime = make()
        await offered(runtime)
        life = await joined(runtime, "w0")
        await runtime.ask(Pull(life=life))
        runtime.stop()
        reply = (await runtime.ask(*update(life, 0, 1))).reply
        assert isinstance(reply, Refused)
        assert reply.error.code is Code.STOPPING
        assert runtime.bodies == {}
        assert runtime.not_ready_because() == "the server is stopping"


class TestOrder:
    async def test_replies_decided_before_a_version_are_about_the_one_before(self, make):
        """A switch closes the round: its step is made at once (a small one, inline), and in the same breath the
        joiner who was parked is answered, with the version that was there when that was decided."""
        runtime = make("sync", workers=2)
        await offered(runtime)
        lives = [await joined(runtime, rank) for rank in ("w0", "w1")]
        for life in lives:
            assert isinstance((await runtime.ask(Pull(life=life))).reply, Granted)
        held = (await runtime.ask(*update(lives[0], 0, 1, round=0))).reply
        assert held.disposition is Disposition.HELD
        joiner = await joined(runtime, "w2")
        clock = runtime.machine.groups["default"].clock_of("w2")
        parked = asyncio.create_task(runtime.ask(Pull(life=joiner, clock=clock, wait_seconds=100)))
        await asyncio.sleep(0)
        switched = await runtime.ask(SetPolicy("async"))
        assert isinstance(switched.reply, PolicyState)
        outcome = await parked
        assert outcome.version.number == outcome.reply.version.number
        assert runtime.machine.groups["default"].published == 2

    async def test_an_event_that_comes_up_in_the_middle_waits_its_turn(self, make):
        runtime = make()
        life = await joined(runtime, "w0")
        frame = frame_of(MODEL)
        # An offer publishes inline while its own effects are being performed.
        asked = [asyncio.create_task(runtime.ask(Pull(life=life, wait_seconds=9))) for _ in range(1)]
        await asyncio.sleep(0)
        reply = (await runtime.ask(Offer(frame.specs), frame)).reply
        assert sorted(reply.stored) == sorted(MODEL)
        assert (await asked[0]).version.number == 1

    async def test_versions_are_announced_in_order(self, make):
        runtime = make()
        seen = []
        runtime.on_published = lambda group, number: seen.append(number)
        await offered(runtime)
        lives = [await joined(runtime, f"w{index}") for index in range(4)]
        for life in lives:
            await runtime.ask(Pull(life=life))
        await asyncio.gather(*(runtime.ask(*update(life, 0, 1)) for life in lives))
        assert seen == [1, 2, 3, 4, 5]


class TestFailure:
    async def test_a_step_that_fails_ends_the_server(self, make, monkeypatch):
        runtime = make()
        await offered(runtime)
        life = await joined(runtime, "w0")
        await runtime.ask(Pull(life=life))

        def broken(*_, **__):
            raise MemoryError("no more")

        monkeypatch.setattr(runtime.parameters["default"], "step", broken)
        asked = asyncio.create_task(runtime.ask(*update(life, 0, 1)))
        with capture_logs() as lines, pytest.raises(MemoryError):
            async with asyncio.timeout(10):
                await runtime.failed
        assert [line["event"] for line in lines if line["log_level"] == "error"] == ["a step failed; the server stops"]
        assert not asked.done()
        asked.cancel()

    async def test_settings_of_an_unknown_group(self, make):
        runtime = make()
        with pytest.raises(WireError, match="no group 'head'"):
            runtime.optimizer("head")
        with pytest.raises(WireError, match="no group 'head'"):
            await runtime.set_optimizer("head", {"lr": 1.0})
        with pytest.raises(WireError, match="no group 'head'"):
            runtime.policy("head")


class TestLogs:
    async def test_a_reason_is_logged_once_while_it_lasts(self, make):
        with capture_logs() as lines:
            runtime = make("ssp", staleness=0, workers=2)
            await offered(runtime)
            ahead, _ = await joined(runtime, "w0"), await joined(runtime, "w1")
            await runtime.ask(Pull(life=ahead))
            await runtime.ask(*update(ahead, 0, 1))
            for _ in range(3):
                asked = asyncio.create_task(runtime.ask(Pull(life=ahead, clock=1, wait_seconds=1)))
                await asyncio.sleep(0)
                runtime._clock.now += 2
                runtime.tick()
                await asked
        waits = [line for line in lines if line["event"] == "waits"]
        assert [(line["who"], line["reason"]) for line in waits] == [("w0#1", "lag")]
        assert "w0 leads w1" in waits[0]["detail"]

    async def test_waiting_for_the_servers_own_arithmetic_is_not_told(self, make):
        with capture_logs() as lines:
            runtime = make("sync")
            await offered(runtime)
            life = await joined(runtime, "w0")
            await runtime.ask(Pull(life=life))
            go_on = threading.Event()
            runtime.appliers["default"].submit(Job(go_on.wait, lambda _: None, INLINE_BYTES))
            assert (await runtime.ask(*update(life, 0, 1, round=0))).reply.disposition is Disposition.HELD
            pulled = asyncio.create_task(runtime.ask(Pull(life=life, clock=1, wait_seconds=100)))
            await asyncio.sleep(0)
            (worker,) = runtime.observer.status(0.0)["workers"]
            go_on.set()
            assert (await pulled).version.number == 2
        assert worker["groups"]["default"]["why"]["reason"] == "own-update"
        assert [line for line in lines if line["event"] == "waits"] == []
