"""The worker's side against `ps-serve` itself, in a process of its own."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs
from torch import nn

import leeway
from leeway.errors import BodyTooLarge
from leeway.protocol.limits import MAX_JSON_BYTES
from leeway.protocol.pushes import Disposition
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.worker.client import Client
from leeway.worker.torch_bridge import ModelBridge

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("one_thread")]

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(*flags, port=0, log=None):
    """A server, killed at the end if it has not ended itself; yields its process and address. `log`: its stderr."""
    command = [sys.executable, "-m", "leeway.ps.cli", "--port", str(port), "--workers", "1", *flags]
    with (
        log.open("w") if log else nullcontext() as said,
        subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=said, text=True
        ) as process,
    ):
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def model():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2), nn.Linear(2, 2))
    net[3].bias.requires_grad_(False)
    net.unused = nn.Parameter(torch.ones(3))
    return net


def batches(count):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(8, 4, generator=generator) for _ in range(count)]


def loss_of(net, batch):
    # The unused parameter is no part of it.
    out = batch
    for layer in list(net.children())[:5]:
        out = layer(out)
    return out.square().mean()


def state(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("mode", ["sync", "async", "ssp"])
def test_one_worker_is_plain_sgd(mode):
    flags = ["--mode", mode, "--optimizer", "sgd", "--lr", "0.1", "--until", "5"]
    flags += ["--staleness", "2"] if mode == "ssp" else []
    theirs, ours = model(), model()
    with serving(*flags) as (process, url), leeway.connect(url, "w0") as session:
        session.attach(theirs)
        for batch in batches(5):
            loss_of(theirs, batch).backward()
            session.step(samples=len(batch))
            if session.finished:
                break
            optimizer = torch.optim.SGD([p for p in ours.parameters() if p.requires_grad], lr=0.1)
            optimizer.zero_grad()
            loss_of(ours, batch).backward()
            optimizer.step()
            for name, expected in state(ours).items():
                assert torch.allclose(theirs.state_dict()[name], expected, rtol=1e-5, atol=1e-6), name
        assert (session.clock, session.finished) == (5, True)
        session.close()
        assert process.wait(20) == 0


@pytest.mark.parametrize(("mode", "update"), [("async", "delta"), ("sync", "model")])
def test_local_steps(mode, update):
    theirs = model()
    with (
        serving("--mode", mode, "--optimizer", "sgd", "--lr", "1.0") as (_, url),
        leeway.connect(url, "w0") as session,
    ):
        session.attach(theirs)
        optimizer = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], lr=0.1)
        for batch in batches(3):
            optimizer.zero_grad()
            loss_of(theirs, batch).backward()
            optimizer.step()
        local = state(theirs)
        accepted = Disposition.APPLIED if mode == "async" else Disposition.HELD
        assert session.step(samples=24, update=update).disposition is accepted
        # One worker whose update is taken as it is: the server has what the worker had.
        for name in ("0.weight", "3.weight"):
            assert torch.allclose(theirs.state_dict()[name], local[name], atol=1e-6), name


def test_whole_weights_are_refused_where_nothing_is_aggregated():
    theirs = model()
    with serving("--mode", "async") as (_, url), leeway.connect(url, "w0") as session:
        session.attach(theirs)
        with pytest.raises(leeway.WireError, match="under async each update is a step of its own: push a delta"):
            session.step(samples=8, update="model")


def test_non_finite_is_skipped_and_the_model_goes_on():
    theirs = model()
    with (
        serving("--mode", "async", "--optimizer", "sgd", "--lr", "0.1") as (_, url),
        leeway.connect(url, "w0") as session,
    ):
        session.attach(theirs)
        before = state(theirs)
        (loss_of(theirs, batches(1)[0]) * float("nan")).backward()
        outcome = session.step(samples=8)
        assert (outcome.disposition, str(outcome.reason)) == (Disposition.SKIPPED, "non-finite")
        assert session.clock == 1
        assert torch.equal(theirs[0].weight, before["0.weight"])


def test_a_server_that_was_killed_and_has_forgotten_all_is_given_the_weights_again():
    theirs = model()
    flags = ["--mode", "async", "--optimizer", "sgd", "--lr", "0.1"]
    first, second, third = batches(3)
    with serving(*flags) as (process, url):
        session = leeway.connect(url, "w0")
        session.attach(theirs)
        loss_of(theirs, first).backward()
        session.step(samples=8)
        trained = state(theirs)
        process.kill()
        process.wait()
    with serving(*flags, port=int(url.rpartition(":")[2])), session:
        loss_of(theirs, second).backward()
        with capture_logs() as lines:
            outcome = session.step(samples=8)
        (told,) = [line for line in lines if line["event"] == "the server was started again"]
        assert "this worker's, of iteration 1" in told["detail"]
        assert (outcome.disposition, str(outcome.reason)) == (None, "old-epoch")
        assert session.clock == 0
        assert torch.equal(theirs[0].weight, trained["0.weight"])
        loss_of(theirs, third).backward()
        assert session.step(samples=8).disposition is Disposition.APPLIED


async def test_a_rank_that_is_taken_over_is_told_and_the_other_goes_on():
    bridge = ModelBridge(model())
    with serving("--mode", "async") as (_, url):
        async with Client(url, "w0") as old, Client(url, "w0") as new:
            await new.offer(bridge.specs, bridge.values)
            with pytest.raises(Exception, match="fenced"):
                await old.pull()
            assert await new.pull()


async def state_of(client, rank):
    (worker,) = [one for one in (await client.status())["workers"] if one["rank"] == rank]
    return worker["groups"]["default"]["state"]


async def test_workers_wait_for_one_another_at_a_barrier_and_in_ssp():
    bridge = ModelBridge(model())
    with serving("--mode", "ssp", "--staleness", "1") as (_, url):
        async with Client(url, "w0") as fast, Client(url, "w1") as slow:
            await fast.offer(bridge.specs, bridge.values)
            await asyncio.gather(fast.barrier("begin", 2), slow.barrier("begin", 2))
            await fast.pull()
            await fast.skip()
            ahead = asyncio.create_task(fast.skip())
            await slow.pull()
            while await state_of(slow, "w0") != "waiting":  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
            assert not ahead.done()
            await slow.skip()
            _, pulled = await ahead
            assert (pulled.grant.clock, pulled.grant.lag) == (2, 1)


def test_the_own_script_of_the_examples():
    # Under sync neither can be done before the other has begun.
    flags = ["--mode", "sync", "--workers", "2", "--optimizer", "momentum", "--lr", "0.05", "--until", "200"]
    script = [sys.executable, str(ROOT / "examples" / "own_script.py")]
    with serving(*flags) as (server, url):
        workers = [
            subprocess.Popen([*script, url, rank], env=environment(), stdout=subprocess.PIPE, text=True)
            for rank in ("w0", "w1")
        ]
        said = [process.communicate(timeout=120)[0] for process in workers]
        assert [process.returncode for process in workers] == [0, 0]
        assert server.wait(20) == 0
    for line in said:
        rank, words = line.split(": ")
        assert words.startswith("200 iterations, test accuracy ")
        assert float(words.split()[-1]) > 0.85, rank


async def test_a_model_of_very_many_tensors_is_offered_and_joined():
    """The question before the offer and the reply to a join are above the limit of other JSON bodies."""
    names = [f"{100 * 'é'}.{number}" for number in range(8_000)]
    specs = [TensorSpec(name, (1,), "float32", Kind.TRAINABLE) for name in names]
    assert len(json.dumps([spec.to_row() for spec in specs], separators=(",", ":"))) > MAX_JSON_BYTES
    with serving("--mode", "async", "--optimizer", "sgd") as (_, url):
        async with Client(url, "w0") as first, Client(url, "w1") as second:
            await first.offer(specs, lambda layout: [bytes(layout.nbytes)])
            await second.offer(specs, lambda _: pytest.fail("the server has them all"))
            assert len((await second.pull()).frame.places) == len(specs)


async def test_who_comes_late_to_a_short_run_misses_nothing():
    bridge = ModelBridge(model())
    with serving("--mode", "async", "--workers", "2", "--until", "1") as (process, url):
        async with Client(url, "w0") as early:
            await early.offer(bridge.specs, bridge.values)
            waiting = asyncio.create_task(early.pull())
            while await state_of(early, "w0") != "waiting":  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
            async with Client(url, "w1") as late:
                for client, pulled in ((early, waiting), (late, late.pull())):
                    assert await pulled
                    outcome, _ = await client.skip()
                    assert outcome.clock == 0
        assert await asyncio.to_thread(process.wait, 20) == 0


async def test_a_model_above_the_server_s_limit_is_told_at_once():
    bridge = ModelBridge(nn.Linear(64, 64))
    with serving("--mode", "async", "--max-body", "1KiB") as (_, url):
        async with Client(url, "w0") as client:
            with pytest.raises(BodyTooLarge, match="the server takes at most 1024; start it with --max-body"):
                await client.offer(bridge.specs, bridge.values)
