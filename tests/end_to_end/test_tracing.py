"""A trace of a real run: every accepted push is in it, and who was slow can be read from it."""

import json

import pytest

from tests.end_to_end.commands import SMALL
from tests.guarantees import judge, read
from tests.ps.watching.trace_format import Trace

pytestmark = pytest.mark.e2e

STEPS = 20


@pytest.fixture(scope="module")
def run(shared_commands):
    """Two workers under ssp(1), of which w1 sleeps in every iteration; the facts of its history, and its trace."""
    commands = shared_commands
    server = commands.serve(
        *("--mode", "ssp", "--staleness", 1, "--workers", 2, "--until", STEPS, "--history", "history.jsonl")
    )
    flags = ("--start-together", 2, "--batch-size", 8)
    workers = [
        commands.work(SMALL, server, "w0", *flags),
        commands.work(SMALL, server, "w1", *flags, "--slow", 0.05),
    ]
    for worker in workers:
        worker.wait()
    server.wait()
    commands.python("trace", "-m", "leeway.ps.cli", "trace", "history.jsonl", "-o", "trace.json").wait()
    trace = Trace(json.loads((commands.folder / "trace.json").read_text()))
    return judge(read(commands.folder / "history.jsonl")), trace


def test_every_accepted_push_has_its_slices(run):
    facts, trace = run
    for rank in ("w0", "w1"):
        pushed = sorted(clock for _, _, who, _, clock in facts.told if who == rank)
        computed = trace.slices(f"worker {rank}", "iterations", "compute")
        assert [one["args"]["clock"] for one in computed] == pushed == list(range(STEPS))
        # Of the last one alone no durations are told.
        estimated = [one["args"]["clock"] for one in computed if "estimated" in one["args"]]
        assert estimated == [STEPS - 1]
        for part in ("push", "pull"):
            clocks = [one["args"]["clock"] for one in trace.slices(f"worker {rank}", "iterations", part)]
            assert clocks == pushed[:-1]


def test_it_can_be_read_who_was_slow(run):
    _, trace = run
    slow = trace.slices("worker w1", "iterations", "compute")[1:-1]
    # It sleeps for 50 ms. The server's clock may be read a little after the bytes have left.
    assert min(one["dur"] for one in slow) >= 45_000
    waits = [one for one in trace.slices("worker w0", "iterations", "wait") if one["args"]["reason"] == "lag"]
    assert len(waits) >= 3
    assert {one["args"]["detail"] for one in waits} == {"w0 leads w1 by 2 > 1"}


def test_what_is_drawn_of_an_iteration_fits_into_what_the_worker_measured(run):
    """The two clocks are compared nowhere but here. The rest is the way through the network."""
    _, trace = run
    for rank in ("w0", "w1"):
        slices = trace.slices(f"worker {rank}", "iterations")
        told = {
            one["args"]["clock"]: sum(one["args"]["measured_seconds"].values())
            for one in slices
            if "measured_seconds" in one["args"]
        }
        assert list(told) == list(range(STEPS - 1))
        for clock, seconds in told.items():
            drawn = sum(one["dur"] for one in slices if one["args"]["clock"] == clock) / 1e6
            assert drawn <= seconds + 0.001


def test_the_server_s_side(run):
    facts, trace = run
    versions = [number for _, number in trace.counter("server", "version")]
    assert versions == list(range(1, 2 * STEPS + 2))
    applied = trace.slices("server", "apply")
    assert [one["args"]["version"] for one in applied] == versions
    assert [one["name"] for one in applied] == ["initialize"] + ["apply"] * (2 * STEPS)
    assert sum(one["args"]["updates"] for one in applied) == len(facts.told) == 2 * STEPS
    clocks = [clock for _, clock in trace.counter("server", "min clock")]
    assert clocks == sorted(set(clocks))
    assert max(lag for _, lag in trace.counter("worker w0", "lag")) == 1
    names = [name for _, name in trace.marks()]
    assert names[0] == "started"
    assert {"w0 joins", "w1 joins", "w0 ends", "w1 ends", "finished", "stopping"} < set(names)


def test_the_bubbles_of_a_pipeline_are_seen(shared_commands):
    """Of two stages the second computes ten times as long: it is what the first waits for."""
    commands = shared_commands
    server = commands.serve("--mode", "sync", "--lr", 0.01, "--until", 6, "--history", "staged.jsonl")
    stages = [commands.stage(server, "r0", number, nap) for number, nap in ((0, 0.002), (1, 0.02))]
    for process in (*stages, server):
        process.wait()
    commands.python("staged", "-m", "leeway.ps.cli", "trace", "staged.jsonl", "-o", "staged.json").wait()
    trace = Trace(json.loads((commands.folder / "staged.json").read_text()))
    assert trace.tracks("worker r0") == ["stage 0", "stage 1"]
    seconds = {}
    for stage in ("stage 0", "stage 1"):
        for kind in ("compute", "bubble"):
            slices = [one for one in trace.slices("worker r0", stage, kind) if "estimated" not in one["args"]]
            assert [one["args"]["clock"] for one in slices] == list(range(5))
            seconds[stage, kind] = sum(one["dur"] for one in slices[1:]) / 1e6
    assert seconds["stage 0", "bubble"] > seconds["stage 0", "compute"]
    assert seconds["stage 1", "bubble"] < seconds["stage 1", "compute"]
