"""Real workers learn real data: the built-in tasks to their known results, and the ways to push less often."""

import pytest
import torch

from leeway.worker.train.tasks.task import resolve
from tests.guarantees import judge, read

pytestmark = pytest.mark.e2e


def accuracy(task, server, data_dir):
    """Of the newest parameters, downloaded as a file, on the held-out samples."""
    made = resolve(task)(data_dir, None)
    model = made.model(seed=1)
    model.load_state_dict(server.parameters())
    return made.evaluate(model, torch.device("cpu"))["accuracy"]


@pytest.mark.data
@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (("--mode", "sync", "--optimizer", "adam", "--lr", 0.003), 250),
        (("--mode", "async", "--lr", 0.08), 400),
        (("--mode", "ssp", "--staleness", 3, "--lr", 0.08), 400),
    ],
    ids=["sync", "async", "ssp"],
)
def test_mnist_by_four_workers(commands, data_dir, flags, steps):
    server = commands.serve("--workers", 4, "--history", "history.jsonl", *flags)
    working = ("--data-dir", data_dir, "--steps", steps, "--batch-size", 128, "--start-together", 4)
    for process in commands.workers(4, "mnist", server, *working):
        process.wait()
    assert accuracy("mnist", server, data_dir) >= 0.96
    server.stop()
    facts = judge(read(commands.folder / "history.jsonl"))
    assert len(facts.told) == 4 * steps


@pytest.mark.data
def test_linear_regression_finds_the_least_squares_solution(commands, data_dir):
    server = commands.serve("--workers", 2, "--mode", "sync", "--lr", 0.3)
    # 282 adults: with 141 in a batch, each round sees all of them.
    for process in commands.workers(2, "linreg", server, *("--data-dir", data_dir, "--steps", 40, "--batch-size", 141)):
        process.wait()
    learned = server.parameters()
    slope, intercept = resolve("linreg")(data_dir, None).least_squares()
    assert learned["weight"].item() == pytest.approx(slope, rel=1e-5)
    assert learned["bias"].item() == pytest.approx(intercept, rel=1e-5)


@pytest.mark.parametrize(
    ("serving", "working"),
    [
        # The mean of two models that have made five steps each: FedAvg.
        (("--mode", "sync", "--lr", 1), ("--local-steps", 5, "--local-lr", 0.2, "--steps", 30)),
        (("--mode", "async", "--lr", 1), ("--local-steps", 5, "--local-lr", 0.2, "--steps", 30)),
        (("--mode", "sync", "--lr", 0.5), ("--accumulate", 4, "--steps", 100)),
    ],
    ids=["local steps, sync", "local steps, async", "accumulated gradients"],
)
def test_pushing_less_often(commands, tmp_path, serving, working):
    server = commands.serve("--workers", 2, "--history", "history.jsonl", *serving)
    flags = (*working, "--batch-size", 16, "--partition", "random", "--start-together", 2)
    weighted = [commands.work("digits", server, f"w{index}", *flags, "--weight", 0.5 + index) for index in range(2)]
    for process in weighted:
        process.wait()
    assert accuracy("digits", server, tmp_path) >= 0.9
    server.stop()
    facts = judge(read(tmp_path / "history.jsonl"))
    assert len(facts.told) == 2 * working[working.index("--steps") + 1]
