"""`ps-worker --evaluate-every`: figures of the held-out data on the way, and the run is the same as without it."""

import pytest
import torch

from tests.end_to_end.commands import NORMALIZED
from tests.guarantees import read

pytestmark = pytest.mark.e2e

STEPS = 12


def pushes(path):
    asked = (row["event"] for row in read(path) if row.get("event", {}).get("is") == "Asked")
    return [event["message"] for event in asked if event["message"]["is"] == "Push"]


def test_training_is_the_same_to_the_bit(commands):
    parameters = []
    for name, flags in {"plain": (), "evaluated": ("--evaluate-every", 5)}.items():
        server = commands.serve("--mode", "sync", "--optimizer", "momentum", "--history", f"{name}.jsonl")
        commands.work(NORMALIZED, server, "w0", "--steps", STEPS, "--batch-size", 16, *flags).wait()
        parameters.append(server.parameters())
        server.stop()
    plain, evaluated = parameters
    assert plain.keys() == evaluated.keys()
    assert all(torch.equal(value, evaluated[name]) for name, value in plain.items())
    told = [[one["metrics"] for one in pushes(commands.folder / f"{name}.jsonl")] for name in ("plain", "evaluated")]
    assert [set(one) for one in told[0]] == [{"loss"}] * STEPS
    assert [set(one) for one in told[1]] == [{"loss", "test_loss", "test_accuracy"}] * STEPS
    assert [one["loss"] for one in told[0]] == [one["loss"] for one in told[1]]
    # At iterations 0, 5 and 10, each kept until the next.
    evaluations = [one["test_loss"] for one in told[1]]
    assert evaluations == [evaluations[0]] * 5 + [evaluations[5]] * 5 + [evaluations[10]] * 2
    assert len(set(evaluations)) == 3


def test_the_first_of_two_evaluates(commands):
    # In rounds: else the first may be done and gone, and the other one is then the first.
    launch = commands.launch(
        *(NORMALIZED, "--workers", 2, "--mode", "sync", "--steps", 6, "--batch-size", 16, "--evaluate-every", 2),
        *("--history", "history.jsonl"),
    )
    launch.wait()
    told = {}
    for push in pushes(commands.folder / "history.jsonl"):
        told.setdefault(push["life"]["rank"], []).append("test_accuracy" in push["metrics"])
    assert told == {"w0": [True] * 6, "w1": [False] * 6}
