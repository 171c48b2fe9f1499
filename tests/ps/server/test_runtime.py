"""The runtime: events in their order, replies with the version they speak of, and what becomes of failures."""

import asyncio
import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from structlog.testing import capture_logs

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.decoder import decode
from leeway.protocol.lives import Life
from leeway.protocol.membership import Join
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Disposition, Push, Pushed, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.tuning import PolicyState, SetPolicy
from leeway.ps.arithmetic.guards import GuardMode
from leeway.ps.arithmetic.optimizers import StateLost
from leeway.ps.arithmetic.parameters import Parameters
from leeway.ps.arithmetic.settings import OptimizerSettings
from leeway.ps.core.events import Published
from leeway.ps.core.machine import Machine
from leeway.ps.core.settings import GroupSettings, Settings
from leeway.ps.server.applier import INLINE_BYTES, Job
from leeway.ps.server.runtime import Runtime
from leeway.ps.watching.decision_log import DecisionLog, Kind
from leeway.ps.watching.feed import Feed
from leeway.ps.watching.listeners import Named
from leeway.ps.watching.metrics import ServerMetrics
from leeway.ps.watching.observer import Observer
from leeway.transport.memory.pool import Pool
from tests.ps.server import rawclient
from tests.ps.server.serving import MODEL, Clock


@pytest.fixture
async def make():
    """Runtimes without a server around them."""
    made = []

    def make(mode="async", *, staleness=None, workers=1, listeners=(), **settings):
        machine = Machine(
            Settings((GroupSettings(PolicyTerms(mode, staleness)),), workers=workers, **settings), epoch=7
        )
        pool = Pool()
        runtime = Runtime(
            machine,
            {"default": Parameters(OptimizerSettings(lr=1.0), pool, workers=workers)},
            make_part=partial(Parameters, OptimizerSettings(lr=1.0), pool, workers=workers),
            pool=pool,
            guard_mode=GuardMode.REFUSE,
            metrics=ServerMetrics(),
            listeners=listeners,
            clock=Clock(),
        )
        made.append(runtime)
        return runtime

    yield make
    for runtime in made:
        for applier in runtime.publishing.appliers.values():
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


@contextmanager
def monkeypatched(owner, method, error):
    def raises(*_, **__):
        raise error

    setattr(owner, method, raises)
    yield
    delattr(owner, method)


def counted(runtime, name, **labels):
    samples = [sample for family in runtime.metrics.registry.collect() for sample in family.samples]
    wanted = [one for one in samples if one.name == name and labels.items() <= one.labels.items()]
    return sum(sample.value for sample in wanted)


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
        assert not runtime.bodies
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
        assert not runtime.askers

    async def test_a_cancelled_push_is_applied_all_the_same(self, make):
        published = asyncio.Event()

        def heard(event, effects, now):
            if isinstance(event, Published) and event.number == 2:
                published.set()

        runtime = make(listeners=[Named("test", heard)])
        large = {"weight": np.zeros(100_000, np.float32)}
        await offered(runtime, large)
        life = await joined(runtime, "w0")
        await runtime.ask(Pull(life=life))
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
        assert not runtime.bodies
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
        switched = await runtime.ask(SetPolicy(PolicyTerms("async")))
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
        seen = []

        def heard(event, effects, now):
            if isinstance(event, Published):
                seen.append(event.number)

        runtime = make(listeners=[Named("test", heard)])
        await offered(runtime)
        lives = [await joined(runtime, f"w{index}") for index in range(4)]
        for life in lives:
            await runtime.ask(Pull(life=life))
        await asyncio.gather(*(runtime.ask(*update(life, 0, 1)) for life in lives))
        assert seen == [1, 2, 3, 4, 5]


class TestFailure:
    """What fails in the arithmetic costs that step and no more; `no_step` makes every step fail."""

    @pytest.fixture
    def no_step(self, monkeypatch):
        def fail(runtime, error):
            def broken(*_, **__):
                raise error

            monkeypatch.setattr(runtime.parameters["default"], "step", broken)

        return fail

    @pytest.mark.parametrize("values", [4, 100_000], ids=["inline", "thread"])
    @pytest.mark.parametrize("error", [MemoryError("no more"), RuntimeError("a kernel says no")])
    async def test_a_step_that_fails_publishes_the_values_before_it(self, make, no_step, error, values):
        runtime = make()
        model = {"weight": np.arange(values, dtype=np.float32)}
        await offered(runtime, model)
        life = await joined(runtime, "w0")
        before = bytes((await runtime.ask(Pull(life=life))).version.body)
        with monkeypatched(runtime.parameters["default"], "step", error), capture_logs() as lines:
            outcome = await runtime.ask(*update(life, 0, 1, tensors=model))
        assert outcome.reply == Pushed(0, Disposition.SKIPPED, Reason.STEP_FAILED)
        pulled = await runtime.ask(Pull(life=life, clock=1))
        assert (pulled.version.number, bytes(pulled.version.body)) == (2, before)
        assert not runtime.failed.done()
        assert [line["event"] for line in lines if line["log_level"] == "error"] == ["step failed"]
        assert runtime.decisions.after(None)[-1].kind is Kind.STEP_FAILED
        # The next step is made.
        await runtime.ask(*update(life, 1, 2, tensors=model))
        assert runtime.parameters["default"].versions.current.number == 3
        assert bytes(runtime.parameters["default"].versions.current.body) != before
        assert counted(runtime, "leeway_server_failed_steps_total", group="default") == 1
        assert counted(runtime, "leeway_server_pushes_total", disposition="skipped", reason="step-failed") == 1

    async def test_a_round_goes_on_and_its_members_are_told_with_their_grant(self, make):
        runtime = make("sync", workers=2)
        await offered(runtime)
        lives = [await joined(runtime, rank) for rank in ("w0", "w1")]
        for life in lives:
            await runtime.ask(Pull(life=life))
        with monkeypatched(runtime.parameters["default"], "step", MemoryError()):
            for life in lives:
                assert (await runtime.ask(*update(life, 0, 1, round=0))).reply.disposition is Disposition.HELD
        for life in lives:
            granted = (await runtime.ask(Pull(life=life, clock=1))).reply
            assert (granted.version.number, granted.round, granted.step_failed) == (2, 1, True)

    async def test_an_offer_that_cannot_be_stored_leaves_its_keys_free(self, make):
        runtime = make()
        frame = frame_of(MODEL)
        with monkeypatched(runtime.parameters["default"], "offer", MemoryError()):
            reply = (await runtime.ask(Offer(frame.specs), frame)).reply
        assert reply.error.code is Code.INTERNAL
        assert not runtime.bodies
        assert runtime.not_ready_because() == "no parameters yet in default"
        assert (await runtime.ask(Pull())).reply.reason is Reason.NO_PARAMETERS
        await offered(runtime)
        assert (await runtime.ask(Pull())).version.number == 2

    async def test_steps_that_go_on_failing_are_told_now_and_then(self, make, no_step):
        runtime = make()
        await offered(runtime)
        life = await joined(runtime, "w0")
        no_step(runtime, MemoryError("no more"))
        with capture_logs() as lines:
            for clock in range(50):
                await runtime.ask(Pull(life=life, clock=clock))
                await runtime.ask(*update(life, clock, clock + 1))
        told = [line["detail"] for line in lines if line["event"] == "step failed"]
        assert len(told) == 6, "the 1st, 2nd, 4th ... 32nd"
        assert told[5].endswith("; 32 steps in a row have failed")
        assert counted(runtime, "leeway_server_failed_steps_total", group="default") == 50

    async def test_where_the_optimizers_state_is_lost_the_server_stops_with_the_values_before(self, make, no_step):
        runtime = make()
        await offered(runtime)
        life = await joined(runtime, "w0")
        await runtime.ask(Pull(life=life))
        no_step(runtime, StateLost("the momentum is half of one step"))
        outcome = await runtime.ask(*update(life, 0, 1))
        assert outcome.reply == Pushed(0, Disposition.SKIPPED, Reason.STEP_FAILED)
        assert runtime.failed.result().state_is_sound
        assert "the momentum is half of one step" in str(runtime.failed.result())

    @pytest.mark.parametrize("where", ["deciding", "doing"])
    async def test_a_fault_of_ours_between_deciding_and_doing_ends_all_decisions(self, make, monkeypatch, where):
        runtime = make()
        await offered(runtime)
        parked = asyncio.create_task(runtime.ask(Pull(min_version=9, wait_seconds=100)))
        await asyncio.sleep(0)

        def broken(*_):
            raise AssertionError("a fault of ours")

        monkeypatch.setattr(*((runtime.machine, "step") if where == "deciding" else (runtime, "_do")), broken)
        assert (await runtime.ask(Pull())).reply.error.code is Code.STOPPING
        assert (await parked).reply.error.code is Code.STOPPING
        assert (await runtime.ask(Pull())).reply.error.code is Code.STOPPING
        runtime.tick()
        assert not runtime.failed.result().state_is_sound
        assert runtime.not_ready_because() == "the server is stopping"

    async def test_settings_that_fail_change_nothing(self, make):
        runtime = make()
        before = runtime.tuning.optimizer("default")
        with pytest.raises(WireError, match="lr is 10000000"):
            await runtime.tuning.set_optimizer("default", {"lr": 1e7, "weight_decay": 0.5})
        with pytest.raises(WireError, match="a running optimizer stays sgd"):
            await runtime.tuning.set_optimizer("default", {"kind": "adam"})
        assert runtime.tuning.optimizer("default") == before

    async def test_settings_of_an_unknown_group(self, make):
        runtime = make()
        with pytest.raises(WireError, match="no group 'head'"):
            runtime.tuning.optimizer("head")
        with pytest.raises(WireError, match="no group 'head'"):
            await runtime.tuning.set_optimizer("head", {"lr": 1.0})
        with pytest.raises(WireError, match="no group 'head'"):
            runtime.tuning.policy("head")


class TestTelling:
    """Whoever is told of the run may fail: what is decided is done all the same."""

    @pytest.mark.parametrize(
        "broken",
        [
            (Observer, "took"),
            (Observer, "answered"),
            (Observer, "stepped"),
            (Feed, "took"),
            (Feed, "tick"),
            (Feed, "stop"),
            (ServerMetrics, "stepped"),
            (ServerMetrics, "joined"),
            (ServerMetrics, "pull_answered"),
            (DecisionLog, "add"),
        ],
        ids=lambda broken: f"{broken[0].__name__}.{broken[1]}",
    )
    async def test_a_listener_that_raises_touches_nothing(self, make, monkeypatch, broken):
        def raises(*_, **__):
            raise ValueError("I/O operation on closed file")

        monkeypatch.setattr(*broken, raises)
        runtime = make()
        with capture_logs():
            await offered(runtime)
            life = await joined(runtime, "w0")
            await runtime.ask(Pull(life=life))
            outcome = await runtime.ask(*update(life, 0, 1))
            runtime.tick()
            runtime.stop()
        assert outcome.reply == Pushed(0, Disposition.APPLIED, Reason.ON_ARRIVAL, 2, 0)
        assert runtime.parameters["default"].versions.current.number == 2
        assert not runtime.failed.done()

    async def test_a_failure_that_goes_on_is_said_now_and_then_and_counted_each_time(self, make):
        def raises(event, effects, now):
            raise KeyError("w0")

        runtime = make(listeners=[Named("test", raises)])
        with capture_logs() as lines:
            for _ in range(5):
                runtime.tick()
        told = [(line["listener"], line["times"]) for line in lines if line["event"] == "telling failed"]
        assert told == [("test", 1), ("test", 2), ("test", 4)]
        assert counted(runtime, "leeway_server_listener_failures_total", listener="test") == 5

    async def test_a_delicate_one_stays_off(self, make):
        seen = []

        def raises(event, effects, now):
            seen.append(event)
            raise OSError(28, "No space left on device")

        runtime = make(listeners=[Named("history", raises, delicate=True)])
        with capture_logs() as lines:
            for _ in range(3):
                runtime.tick()
        assert len(seen) == 1
        assert "history" not in runtime.listeners
        assert "stays off" in lines[0]["detail"]

    async def test_means_of_telling_that_are_broken_themselves(self, make, monkeypatch):
        runtime = make(listeners=[Named("test", lambda event, effects, now: 1 / 0)])
        monkeypatch.setattr(runtime.metrics, "listener_failed", None)
        monkeypatch.setattr(runtime.listeners, "_log", None)
        monkeypatch.setattr(runtime, "_log", None)
        runtime.tick()
        assert not runtime.failed.done()


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
            runtime.publishing.appliers["default"].submit(Job(go_on.wait, lambda _: None, lambda _: None, INLINE_BYTES))
            assert (await runtime.ask(*update(life, 0, 1, round=0))).reply.disposition is Disposition.HELD
            pulled = asyncio.create_task(runtime.ask(Pull(life=life, clock=1, wait_seconds=100)))
            await asyncio.sleep(0)
            (worker,) = runtime.observer.status(0.0)["workers"]
            go_on.set()
            assert (await pulled).version.number == 2
        assert worker["groups"]["default"]["why"]["reason"] == "own-update"
        assert [line for line in lines if line["event"] == "waits"] == []
