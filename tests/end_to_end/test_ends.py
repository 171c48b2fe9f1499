"""Runs that end beside their clocks: the state is saved, every worker is told why, and all end with exit code 0."""

import pytest
import torch

import leeway
from tests.end_to_end.commands import SMALL
from tests.guarantees import judge, read

pytestmark = pytest.mark.e2e


def check(history, why):
    """All that was decided is true, and after the end nobody was granted another iteration."""
    rows = list(read(history))
    judge(rows)
    effects = [effect for row in rows if "effects" in row for effect in row["effects"]]
    after = effects[[effect["is"] for effect in effects].index("Over") :]
    assert after[0]["why"] == why
    assert "Finished" in [effect["is"] for effect in after]
    assert not [effect for effect in after if "'is': 'Granted'" in str(effect)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--until-metric", "loss<1e9"), ", which --until-metric loss<1000000000.0 asks for"),
        (("--until-flat", "loss:20:max", "--lr", 0.05), " versions (--until-flat loss:20:max)"),
    ],
    ids=["metric", "flat"],
)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_by_a_figure(commands, flags, words, mode):
    serving = ("--mode", mode, "--workers", 2, "--state-dir", "state", "--history", "history.jsonl")
    server = commands.serve(*serving, *flags)
    workers = commands.workers(2, SMALL, server, "--batch-size", 16)
    for process in (*workers, server):
        process.wait()
    (over,), (finished,), (stopped,) = (server.events(name) for name in ("the run is over", "finished", "stopped"))
    why = finished["detail"]
    assert why.endswith(words)
    assert over["detail"] == f"{why}; whoever computes is waited for"
    assert (stopped["finished"], stopped["saved"]) == (True, True)
    for worker in workers:
        (told,) = worker.events("nothing more to compute")
        assert (told["ending"], told["detail"]) == ("finished", why)
    check(commands.folder / "history.jsonl", why)


def test_by_time(commands):
    """A script's own loop, in this process: the time is the server's, and a worker's start may take all of it."""
    server = commands.serve("--until-seconds", 4, "--state-dir", "state", "--history", "history.jsonl")
    net = torch.nn.Linear(2, 1)
    optimizer = leeway.wrap(torch.optim.SGD(net.parameters(), lr=1e-6), net, url=server.url, rank="w0")
    with optimizer.session as session:
        for batch in session.epochs([torch.ones(4, 2)]):
            optimizer.zero_grad()
            net(batch).sum().backward()
            optimizer.step()
        assert (session.finished, session.ending) == (True, "finished")
        assert session.ending_detail == "the run has lasted for the 4 s of --until-seconds"
        assert session.clock > 0
    server.wait()
    (stopped,) = server.events("stopped")
    assert (stopped["finished"], stopped["saved"]) == (True, True)
    check(commands.folder / "history.jsonl", session.ending_detail)


def test_a_run_that_was_resumed_goes_on_until_it_is_so_again(commands):
    serving = ("--mode", "sync", "--state-dir", "state", "--resume", "--until-metric", "loss<1e9")
    clocks = []
    for _ in range(2):
        server = commands.serve(*serving)
        worker = commands.work(SMALL, server, "w0", "--batch-size", 16)
        worker.wait()
        server.wait()
        (done,) = worker.events("done")
        clocks.append(done["clock"])
    assert clocks == [1, 2]


def test_a_figure_that_nobody_tells_is_said_at_the_end(commands):
    server = commands.serve("--until-metric", "acuracy>0.9", "--until", 2)
    commands.work(SMALL, server, "w0", "--batch-size", 16).wait()
    server.wait()
    (told,) = server.events("a figure was never told")
    assert told["name"] == "acuracy"
