"""Workers that are slow, die, come back, and are told their ranks by a launcher."""

import signal

import numpy as np
import pytest
import torch

import leeway
from leeway.worker.train.tasks.task import resolve
from tests.end_to_end.commands import SMALL
from tests.guarantees import judge, read

pytestmark = pytest.mark.e2e

STEPS = 25
LEASE_SECONDS = 1.5
# The server looks every 0.1 s; the rest is for a busy machine.
MARGIN_SECONDS = 1.0


def test_nobody_passes_the_bound_while_one_is_slow(commands):
    server = commands.serve("--workers", 3, "--mode", "ssp", "--staleness", 2, "--history", "history.jsonl")
    flags = ("--steps", STEPS, "--batch-size", 8, "--start-together", 3)
    fast = commands.workers(2, SMALL, server, *flags)
    slow = commands.work(SMALL, server, "slow", *flags, "--slow", 0.05)
    for process in (*fast, slow):
        process.wait()
    server.stop()
    facts = judge(read(commands.folder / "history.jsonl"))
    assert len(facts.told) == len(facts.applied) == 3 * STEPS
    for rank in ("w0", "w1"):
        lags = [lag for _, who, _, lag, _ in facts.granted if who == rank]
        assert max(lags) == 2, "the bound is reached"
    assert {lag for _, who, _, lag, _ in facts.granted if who == "slow"} == {0}
    assert max(facts.staleness) <= (2 * 2 + 1) * (3 - 1)


def test_workers_start_together_on_a_server_that_has_begun(commands):
    server = commands.serve("--workers", 1, "--mode", "sync")
    commands.work(SMALL, server, "first", "--batch-size", 8, "--steps", 3).wait()
    # Whoever of them comes first must not be in a round already while it waits for the other.
    for process in commands.workers(2, SMALL, server, "--batch-size", 8, "--start-together", 2, "--steps", 8):
        process.wait()
    assert server.status()["groups"]["default"]["min_clock"] == 8


@pytest.mark.parametrize("mode", ["sync", "ssp"])
def test_the_dead_hold_up_nobody_for_longer_than_their_lease(commands, mode):
    server = commands.serve(
        *("--workers", 3, "--mode", mode, "--lease", LEASE_SECONDS, "--history", "history.jsonl", "--until", 120)
    )
    flags = ("--batch-size", 8, "--start-together", 3, "--slow", 0.02)
    others = [commands.work(SMALL, server, rank, *flags) for rank in ("w0", "w1")]
    dying = commands.work(SMALL, server, "w2", *flags)
    server.version(at_least=10)
    dying.kill()
    server.hear("lease-expired")
    # Under the same rank, and at once: a process would import torch while the others finish the run.
    train_on(server.url, "w2")
    for process in others:
        process.wait()
    server.wait()
    rows = read(commands.folder / "history.jsonl")
    facts = judge(rows)
    assert facts.finished
    (evicted,) = [one for one in facts.ended if one[3] == "lease-expired"]
    assert evicted[1:3] == ("w2", 1)
    heard = max(row["t"] for row in rows if "event" in row and life_in(row["event"]) == ("w2", 1))
    assert evicted[0] - heard <= LEASE_SECONDS + MARGIN_SECONDS
    # Between any two grants of the others lies at most the lease that ran out, and the rest of a lease in progress.
    granted = sorted(t for t, rank, _, _, _ in facts.granted if rank != "w2" and t >= heard)
    following = granted[next(place for place, t in enumerate(granted) if t >= evicted[0])]
    assert following - evicted[0] <= MARGIN_SECONDS, "whoever waited goes on at once"
    assert [one[1:] for one in facts.began if one[1] == "w2"] == [("w2", 1), ("w2", 2)]
    assert {clock for _, _, rank, number, clock in facts.applied if (rank, number) == ("w2", 2)}, "it works again"


def train_on(url, rank):
    """A worker in this process."""
    task = resolve(SMALL)(None, None)
    model = task.model(0)
    with leeway.connect(url, rank) as session:
        session.attach(model)
        while not session.finished:
            task.loss(model, *task.batch(np.arange(8), torch.device("cpu"))).backward()
            session.step(samples=8)


def life_in(event):
    life = event.get("message", {}).get("life")
    return life and (life["rank"], life["incarnation"])


def test_a_restarted_process_takes_the_rank_from_the_one_before(commands):
    server = commands.serve("--mode", "async", "--until", 200, "--history", "history.jsonl")
    slow = ("--batch-size", 8, "--slow", 0.05)
    first = commands.work(SMALL, server, "w0", *slow)
    server.version(at_least=5)
    second = commands.work(SMALL, server, "w0", "--batch-size", 8)
    first.wait(code=1)
    assert "replaced by a new process of rank w0" in first.said
    second.wait()
    server.wait()
    facts = judge(read(commands.folder / "history.jsonl"))
    assert [one[1:] for one in facts.ended] == [("w0", 1, "new-session"), ("w0", 2, "left")]


def test_ctrl_c_ends_a_worker_in_good_order(commands):
    server = commands.serve("--mode", "async", "--history", "history.jsonl")
    process = commands.work(SMALL, server, "w0", "--slow", 0.01)
    server.version(at_least=5)
    process.signal(signal.SIGINT)
    process.wait(code=130)
    assert "Traceback" not in process.said
    assert server.status()["workers"] == []
    server.stop()
    facts = judge(read(commands.folder / "history.jsonl"))
    assert [one[1:] for one in facts.ended] == [("w0", 1, "left")]


def test_ranks_come_from_the_launcher(commands):
    server = commands.serve("--workers", 2, "--mode", "sync", "--until", 5, "--history", "history.jsonl")
    started = [
        commands.python(f"process {number}", "-m", "leeway.worker.train.cli", SMALL, environment=environment)
        for number, environment in enumerate(
            (
                {"RANK": "0", "WORLD_SIZE": "2", "PS_SERVER": server.url},
                {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "PS_SERVER": server.url},
            )
        )
    ]
    for process in started:
        process.wait()
    server.wait()
    facts = judge(read(commands.folder / "history.jsonl"))
    assert {rank for _, rank, _ in facts.began} == {"w0", "w1"}


class TestMistakes:
    """One line that says what to change, exit code 2, no traceback."""

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["nonsense"], "no task 'nonsense'; the built-in ones are linreg, digits"),
            (
                ["digits", "--server", "nowhere"],
                "--server: the server's address 'nowhere' has no scheme; write http://nowhere",
            ),
            (["digits", "--rank", "a b"], "--rank is 'a b'; it must be 1 to 64 of the characters"),
            (["mnist", "--data-dir", "empty"], "; run: ps-data get mnist --data-dir empty"),
            (["missing.py:Task"], "there is no file"),
            (["digits", "--model", "huge"], "task digits has no model 'huge'; it has mlp"),
            (["digits", "--server", "http://127.0.0.1:1/?x=1"], "must be scheme, host, port and path alone"),
            (["digits", "--metrics-port", "1", "--metrics-host", "256.0.0.1"], "256.0.0.1"),
        ],
    )
    def test_of_a_command_line(self, commands, arguments, says):
        process = commands.python("worker", "-m", "leeway.worker.train.cli", *arguments)
        process.wait(code=2)
        (line,) = process.errors
        assert line.startswith("ps-worker: ")
        assert says in line

    def test_another_model_than_the_servers(self, commands):
        server = commands.serve("--mode", "async")
        commands.work(SMALL, server, "w0", "--steps", 2).wait()
        process = commands.work("digits", server, "w1", "--steps", 2)
        process.wait(code=1)
        (stopped,) = process.events("training has to stop")
        assert "0.weight" in stopped["detail"]
        assert "Traceback" not in process.said
