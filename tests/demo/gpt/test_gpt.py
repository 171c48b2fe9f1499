"""The second demo, with few iterations: real processes, one of which is really killed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.demo import timeline
from tests.demo.gpt import text
from tests.demo.gpt.evaluation import Evaluator
from tests.demo.gpt.model import LENGTH, Gpt
from tests.demo.gpt.picture import draw, smoothed
from tests.demo.gpt.plan import Plan
from tests.demo.gpt.run import run

ROOT = Path(__file__).parents[3]

SHORT = Plan(naps={"fast": 0.0, "medium": 0.01, "slow": 0.02}, kill_at=2, return_at=10, more=4)


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

        self.begun: list[int] = []

    def begin(self, address: str) -> None:
        self.lines.append(address)

    def show(self, status: dict[str, Any]) -> None:
        self.begun.append(status["barriers"].get("start", 0))

    def tell(self, what: str) -> None:
        self.lines.append(what)


@pytest.mark.e2e
def test_a_worker_is_killed_and_comes_back_and_the_picture_shows_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PS_DATA_DIR", raising=False)
    told = Told()
    with run(SHORT, tmp_path, told) as story:
        happened = timeline.read(story.history)
    assert told.lines[0].startswith("http://127.0.0.1:")
    assert set(told.begun) == {0, 1}
    assert [line.split(":")[0] for line in told.lines[1:]] == [
        told.lines[1].split(":")[0],
        "slow was silent for 3 s and is evicted",
        "slow is started again, under its name",
        "slow is back",
    ]
    first, second = happened.lives["slow"]
    assert first.reason == "lease-expired"
    assert first.begin < story.killed_at < first.end < second.begin
    assert second.reason == happened.lives["fast"][-1].reason == "left"
    # Nobody computed what had been computed before it came back.
    returned = [one.clock for one in happened.iterations["slow"] if one.begin > second.begin]
    assert min(returned) >= SHORT.return_at
    assert happened.largest_lag <= SHORT.staleness
    assert all(one.loss for iterations in happened.iterations.values() for one in iterations)
    evaluator = Evaluator(text.load())
    curve = evaluator.curve(story.versions, happened)
    assert curve[-1][1] < curve[0][1]
    assert len(evaluator.written(story.versions[max(story.versions)], 30)) == 30
    draw(tmp_path / "gpt.png", SHORT, "A title", happened, story.killed_at, curve)
    assert (tmp_path / "gpt.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.e2e
def test_ctrl_c_ends_it(tmp_path):
    command = [sys.executable, "-m", "tests.demo.gpt", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline().startswith("watch it: http://127.0.0.1:")
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
    assert demo.returncode == 130


def test_the_text_needs_no_file(monkeypatch, tmp_path):
    monkeypatch.setenv("PS_DATA_DIR", str(tmp_path))
    pages = text.load()
    assert pages.name == "the pages of this repository"
    assert "|" not in {line[:1] for line in pages.written(pages.train).splitlines()}
    plays = tmp_path / "shakespeare" / "tinyshakespeare.txt"
    plays.parent.mkdir()
    plays.write_text("First Citizen: speak, speak.")
    read = text.load()
    assert read.name == "Tiny Shakespeare"
    assert read.written(torch.cat([read.train, read.held_out])) == plays.read_text()


def test_targets_are_the_characters_that_follow():
    inputs, targets = text.batch(torch.arange(50), 4, 10, torch.Generator().manual_seed(0))
    assert inputs.shape == targets.shape == (4, 10)
    assert torch.equal(inputs + 1, targets)


def test_the_model_sees_no_character_before_its_turn():
    torch.manual_seed(0)
    model = Gpt(vocabulary=20).eval()
    ids = torch.randint(20, (1, LENGTH))
    changed = ids.clone()
    changed[0, 40] = (changed[0, 40] + 1) % 20
    with torch.no_grad():
        before, after = model(ids), model(changed)
        assert model.loss(ids, ids).item() == pytest.approx(math.log(20), abs=1.0)
    assert torch.equal(before[0, :40], after[0, :40])
    assert not torch.equal(before[0, 40:], after[0, 40:])


def test_a_line_is_the_mean_of_the_values_before():
    assert smoothed([(float(number), float(number)) for number in range(10)])[-1] == (9.0, 5.5)
