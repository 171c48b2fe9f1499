"""Models with more in them than float32 weights, against `ps-serve` itself: masks, observers, counters, halves."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from structlog.testing import capture_logs
from torch import nn

import leeway
from leeway.protocol.pushes import Disposition

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
ACCEPTED = (Disposition.APPLIED, Disposition.HELD)


@contextmanager
def serving(*flags):
    """A server, killed at the end if it has not ended itself; yields its process and address."""
    command = [sys.executable, "-m", "leeway.ps.cli", "--port", "0", "--workers", "1", "--lr", "0.1", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def served(url):
    """The model as a reader gets it."""
    request = urllib.request.Request(url + "/v1/params", headers={"Accept": "application/vnd.safetensors"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return safetensors.torch.load(response.read())


class Attention(nn.Module):
    """With a causal mask, an observer that has seen nothing, a queue and its pointer, and a flag."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))
        self.register_buffer("min_val", torch.tensor(float("inf")))
        self.register_buffer("max_val", torch.tensor(float("-inf")).half())
        self.register_buffer("queue_ptr", torch.tensor(4))
        self.register_buffer("warming_up", torch.tensor(True))

    def forward(self, x):
        out = self.norm(self.layer(x))
        self.min_val.copy_(torch.minimum(self.min_val, out.detach().min()))
        self.max_val.copy_(torch.maximum(self.max_val.float(), out.detach().max()))
        self.queue_ptr.copy_((self.queue_ptr + 2) % 8)
        self.warming_up.fill_(False)
        return torch.softmax((out @ out.T)[:4, :4] + self.mask, 1).square().mean()


@pytest.mark.parametrize("flags", [["sync"], ["async"], ["ssp", "--staleness", "2"], ["async", "--non-finite", "off"]])
def test_masks_observers_and_pointers_are_what_the_worker_makes_them(flags):
    model = Attention()
    with serving("--mode", *flags) as (_, url), leeway.connect(url, "w0") as session:
        session.attach(model)
        first = model.layer.weight.detach().clone()
        for pointer in (6, 0, 2):
            model(torch.randn(4, 4)).backward()
            expected = {name: buffer.clone() for name, buffer in model.named_buffers()}
            assert session.step(samples=4).disposition in ACCEPTED
            for found in (dict(model.named_buffers()), served(url)):
                for name, buffer in expected.items():
                    assert torch.equal(found[name], buffer), name
            assert (model.queue_ptr.item(), model.warming_up.item()) == (pointer, False)
            assert model.min_val.isfinite()
            assert model.max_val.isfinite()
            assert model.mask.isinf().sum() == 6
        assert not torch.equal(model.layer.weight, first)


def test_refused_updates_are_told_with_the_tensor():
    model = Attention()
    with serving("--mode", "async") as (_, url), leeway.connect(url, "w0") as session:
        session.attach(model)
        with capture_logs() as logs:
            for _ in range(2):
                (model(torch.randn(4, 4)) * float("nan")).backward()
                outcome = session.step(samples=4)
                assert (outcome.disposition, outcome.tensor) == (Disposition.SKIPPED, "layer.weight")
        told = [line for line in logs if line["log_level"] == "warning"]
        assert [(line["tensor"], line["in_a_row"]) for line in told] == [("layer.weight", 1)]


def half_model(dtype):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1)).to(dtype)


def train(session, model, dtype, steps, scale=1.0):
    for step in range(steps):
        batch = torch.randn(16, 8, generator=torch.Generator().manual_seed(step)).to(dtype)
        (model(batch).float().square().mean() * scale).backward()
        assert session.step(samples=16).disposition in ACCEPTED


def test_float16_trains_with_adam():
    dtype = torch.float16
    model = half_model(dtype)
    flags = ["--mode", "sync", "--optimizer", "adam", "--lr", "0.0005"]
    with serving(*flags) as (_, url), leeway.connect(url, "w0") as session:
        session.attach(model)
        first = [parameter.detach().clone() for parameter in model.parameters()]
        train(session, model, dtype, 30)
        for parameter, before in zip(model.parameters(), first, strict=True):
            assert parameter.isfinite().all()
            assert not torch.equal(parameter, before)


def test_steps_too_small_for_bfloat16_add_up():
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    with (
        serving("--mode", "async", "--optimizer", "sgd", "--lr", "0.0002") as (_, url),
        leeway.connect(url, "w0") as session,
    ):
        session.attach(model)
        for _ in range(60):
            model.weight.sum().backward()
            session.step(samples=1)
    assert torch.equal(model.weight, torch.full((4,), 1 - 60 * 0.0002).bfloat16())


def test_a_resumed_run_goes_on_bit_by_bit_masters_too(tmp_path):
    dtype, flags = torch.bfloat16, ["--mode", "async", "--optimizer", "momentum", "--lr", "0.001"]
    model = half_model(dtype)
    with serving(*flags) as (_, url), leeway.connect(url, "w0") as session:
        session.attach(model)
        train(session, model, dtype, 6)
        train(session, model, dtype, 6)
        expected = served(url)
    model = half_model(dtype)
    flags += ["--state-dir", str(tmp_path), "--resume"]
    for _ in range(2):
        with serving(*flags) as (process, url):
            with leeway.connect(url, "w0") as session:
                session.attach(model)
                train(session, model, dtype, 6)
            found = served(url)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_checkpoint_of_before_there_were_masters_is_resumed(tmp_path):
    flags = ["--mode", "async", "--optimizer", "adam", "--lr", "0.001", "--state-dir", str(tmp_path), "--resume"]
    model = half_model(torch.float16)
    with serving(*flags) as (process, url):
        with leeway.connect(url, "w0") as session:
            session.attach(model)
            train(session, model, torch.float16, 2)
        before = served(url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    (path,) = tmp_path.glob("checkpoint-*.safetensors")
    with safetensors.safe_open(path, "pt") as file:
        description = json.loads(file.metadata()["leeway"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    masters = [name for name in tensors if name.startswith("master/")]
    assert len(masters) == 4
    old = {name: tensor for name, tensor in tensors.items() if name not in (*masters, "digest")}
    for name in old:
        if name.startswith("optimizer/default/exp_avg"):
            old[name] = old[name].half()
    del description["groups"]["default"]["masters"]
    description["format"] = 1
    safetensors.torch.save_file(old, path, {"leeway": json.dumps(description)})
    with serving(*flags) as (_, url), leeway.connect(url, "w0") as session:
        assert all(torch.equal(found, before[name]) for name, found in served(url).items())
        session.attach(model)
        train(session, model, torch.float16, 3)
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        assert not torch.equal(model[0].weight, before["0.weight"])
