"""What workers report is bounded, however many they are, and no update is lost for it."""

import asyncio
import json
import math

import numpy as np
import pytest
from structlog.testing import capture_logs

from leeway.protocol import limits
from leeway.protocol.barriers import Barrier
from leeway.protocol.lives import Life
from leeway.protocol.membership import Join
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.ranks import natural
from leeway.ps.watching.reported import Reported

LONGEST = "é" * (limits.MAX_METRIC_NAME_BYTES // 2)


@pytest.fixture
def reported():
    return Reported()


def test_the_newest_figures_of_each_rank(reported):
    assert reported.take("w0", {"loss": 1.0, "accuracy": math.nan}) == []
    assert reported.take("w1", {"loss": 2.0}) == []
    assert reported.take("w0", {"loss": 0.5}) == []
    assert (reported.of("w0"), reported.of("w1"), reported.of("w2")) == ({"loss": 0.5}, {"loss": 2.0}, {})
    reported.forget("w0")
    reported.forget("w0")
    assert reported.of("w0") == {}


@pytest.mark.parametrize("name", [LONGEST + "x", "x" * 100_000, "", "two\nlines", "nul\0", "\u202e", "\ud800"])
def test_a_name_that_is_none_is_left_out_and_the_others_are_not(reported, name):
    assert reported.take("w0", {name: 1.0, "loss": 2.0, LONGEST: 3.0}) == [name]
    assert reported.of("w0") == {"loss": 2.0, LONGEST: 3.0}


def test_names_are_counted_over_all_ranks(reported):
    """Of each rank a few that nobody else has."""
    per_rank = 4
    ranks = limits.MAX_METRIC_NAMES // per_rank
    for rank in range(ranks):
        assert reported.take(f"w{rank}", {f"{rank}-{number}": 0.0 for number in range(per_rank)}) == []
    assert reported.take("late", {"0-0": 1.0, "new": 2.0}) == ["new"], "a name that is known has its place"
    assert reported.of("late") == {"0-0": 1.0}
    reported.forget("w0")
    assert reported.take("late", {"0-0": 1.0, "new": 2.0}) == [], "nobody reports three of the names any more"


def test_names_that_change_all_the_time_take_no_room(reported):
    for epoch in range(1000):
        figures = {f"loss of epoch {epoch}": 0.0, "loss": 1.0}
        assert reported.take("w0", figures) == []
        assert reported.of("w0") == figures


async def test_the_update_is_applied_and_what_is_left_out_is_counted(server, worker, gradient):
    figures = {"loss": 0.5, "x" * 10_000: 1.0, "y" * 10_000: 2.0}
    with capture_logs() as logs:
        for _ in range(5):
            assert (await worker.push(gradient, metrics=figures)).json["disposition"] == "applied"
            await worker.pull()
    told = [(line["rank"], line["pushes"]) for line in logs if line["event"] == "figures left out"]
    assert told == [("w0", 1), ("w0", 2), ("w0", 4)]
    (shown,) = (await server.get("/v1/status")).json["workers"]
    assert shown["reported"] == {"loss": 0.5}
    assert server.metric("figures_left_out_total") == 10


async def test_the_status_is_bounded_with_everything_at_its_limits(start, monkeypatch):
    """More live workers than it lists, with the longest names, waiting for many, with all figures; and all barriers.

    A sixteenth of the workers, to be quick: the workers' part is then a sixteenth, too.
    """
    most = limits.MAX_STATUS_ROWS
    monkeypatch.setattr(limits, "MAX_STATUS_ROWS", most // 16)
    server = await start(mode="ssp", staleness=0, lease_seconds=1000.0)
    await server.offer({"w": np.zeros(1, np.float32)})
    ask = server.runtime.ask
    ranks = [f"{'w' * 58}{number:06d}" for number in range(limits.MAX_STATUS_ROWS + 80)]
    lives = {}
    for rank in ranks:
        joined = (await ask(Join(rank, "s"))).reply
        lives[rank] = Life(rank, joined.epoch, joined.incarnation)
    # Printable, outside the basic plane: twelve bytes of JSON each.
    names = [f"{'𝛼' * (limits.MAX_METRIC_NAME_BYTES // 4 - 1)}{number:04d}" for number in range(1000)]
    worst = -1.2345678901234567e-300
    figures = dict.fromkeys(names[: limits.MAX_REPORTED_METRICS], worst)
    waiting = []
    slow = len(ranks) - limits.MAX_NAMED_WAITERS - 10
    for number, life in enumerate(lives.values()):
        if number >= slow:
            figures = dict.fromkeys(names[number : number + limits.MAX_REPORTED_METRICS], worst)
        granted = (await ask(Pull(life=life, wait_seconds=None))).reply
        if number < slow:
            push = Push(life, 0, granted.version.number, UpdateKind.SKIP, metrics=figures, pull=True, wait_seconds=300)
            waiting.append(asyncio.ensure_future(ask(push)))
    for number in range(limits.MAX_BARRIERS):
        await ask(Barrier(lives[ranks[-1]], f"{'b' * 58}{number:06d}", 0, parties=2))
    reply = await server.get("/v1/status")
    status = reply.json
    workers_bytes = len(json.dumps(status["workers"]))
    nbytes = len(reply.body) - workers_bytes + 16 * workers_bytes
    assert limits.MAX_STATUS_BYTES / 2 < nbytes <= limits.MAX_STATUS_BYTES
    assert status["live_workers"] == len(ranks)
    assert [worker["rank"] for worker in status["workers"]] == sorted(ranks, key=natural)[: limits.MAX_STATUS_ROWS]
    assert all(len(worker["reported"]) == limits.MAX_REPORTED_METRICS for worker in status["workers"][:slow])
    assert len(status["workers"][0]["groups"]["default"]["why"]["waiting_for"]) == limits.MAX_NAMED_WAITERS
    assert len(status["barriers"]) == limits.MAX_BARRIERS
    assert len(json.dumps(status["groups"])) < 20_000
    for task in waiting:
        task.cancel()


async def test_a_round_that_waits_for_many_names_some(start):
    server = await start(mode="sync", workers=200, lease_seconds=1000.0)
    await server.offer({"w": np.zeros(1, np.float32)})
    for number in range(200):
        await server.runtime.ask(Join(f"w{number}", "s"))
    waits_for = (await server.get("/v1/status")).json["groups"]["default"]["round"]["waits_for"]
    assert waits_for == [f"w{number}" for number in range(limits.MAX_NAMED_WAITERS)]
