"""`ps-top` on a real server with real workers: the rank that holds up the others is shown as the one waited for."""

import signal
import time

import pytest

from tests.end_to_end.commands import RUN_SECONDS, SMALL

pytestmark = pytest.mark.e2e

RANKS = ("w0", "w1", "w2")


def until(server, met):
    """Ask for the status until something is true of the workers' progress, by rank."""
    deadline = time.monotonic() + RUN_SECONDS
    while not met({worker["rank"]: worker["groups"]["default"] for worker in server.status()["workers"]}):
        assert time.monotonic() < deadline, server.status()


def for_whom(progress):
    return progress.get("why", {}).get("waiting_for", [])


def test_the_rank_that_holds_up_the_others_is_the_one_waited_for(commands):
    # Longer than the pause: whoever is evicted is waited for no more.
    server = commands.serve("--mode", "ssp", "--staleness", 1, "--lr", 0.05, "--lease", 600)
    workers = {rank: commands.work(SMALL, server, rank, "--steps", 1_000_000) for rank in RANKS}
    until(server, lambda told: set(told) == set(RANKS) and all(one["clock"] > 3 for one in told.values()))
    workers["w1"].signal(signal.SIGSTOP)
    until(server, lambda told: {rank for rank in RANKS if for_whom(told[rank]) == ["w1"]} == {"w0", "w2"})

    top = commands.python("top", "-m", "leeway.ps.top.cli", "--once", server.url)
    top.wait()

    lanes = {line.split()[0]: line for line in top.lines if line.split()[:1] and line.split()[0] in RANKS}
    assert set(lanes) == set(RANKS)
    assert "WAITED FOR by 2, computes" in lanes["w1"] or "WAITED FOR by 2, idle" in lanes["w1"]
    for rank in ("w0", "w2"):
        assert "waits for w1: 2 ahead, max 1" in lanes[rank]
        # It waits all the time, and stands before the bound's stroke.
        assert "│" in lanes[rank]
        assert lanes[rank].split("│")[1].split()[1] == "100%"
    assert top.lines[1].startswith("ssp (bound 1)  version ")
    assert "steps/s" in top.lines[1]
    assert top.lines[2] == "3 workers, 2 waiting for w1"
    assert any(line.startswith("staleness ") for line in top.lines)
    assert any(" joined      w1: " in line for line in top.lines)
