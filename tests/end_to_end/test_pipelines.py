"""Stages that die, stop, come twice or do not fit; servers that go and come back. Each batch of a replica is trained
exactly once, whatever happens: the weights of the model count how often each was (`Tally`)."""

import socket
import threading

import pytest

from tests.worker.pipeline.replicas import Replicas, until

pytestmark = pytest.mark.e2e

LEASE = 1.0
ASYNC = ("--mode", "async", "--optimizer", "sgd", "--lr", "1", "--lease", LEASE)
CUT = {"arguments": {"cut": "2,2"}}
SLOW = {**CUT, "pace_seconds": 0.002}


@pytest.fixture
def replicas(tmp_path):
    with Replicas(tmp_path) as running:
        yield running


def training(replicas, stage, *flags, steps=20):
    """A server with an end at 120, and a replica of which this stage has made so many steps."""
    server = replicas.serve(*ASYNC, "--until", 120, *flags)
    stages = replicas.replica(server.url, **SLOW)
    stages[stage].trained(steps)
    return server, stages


def check_ended(*stages, committed):
    for stage in stages:
        assert stage.ended() == {"ending": "finished", "committed": committed, "finished": True}
        accepted = [step["place"] for step in stage.steps if step["accepted"]]
        assert accepted == sorted(set(accepted))


@pytest.mark.parametrize("lost", [0, 1])
def test_a_stage_that_is_killed_is_replaced(lost, replicas):
    server, stages = training(replicas, lost)
    stages[lost].fork.kill()
    other = stages[1 - lost]
    other.heard(f"stage {lost} of w0#1 was silent for longer than its lease of 1 s")
    stages[lost] = replicas.stage(server.url, lost, **SLOW)
    check_ended(*stages, committed=120)
    places = [step["place"] for step in other.steps]
    (dropped,) = (number for number, step in enumerate(other.steps) if not step["accepted"])
    assert places[dropped] == places[dropped + 1], "the dropped batch is the next one"
    assert len(places) == 120 + 1
    server.check_counts(120)


def test_a_stage_that_is_replaced_before_its_lease_has_run_out(replicas):
    server, stages = training(replicas, 1, "--lease", 60)
    stages[1].fork.kill()
    stages[1] = replicas.stage(server.url, 1, **SLOW)
    stages[0].heard("stage 1 of w0#1 began anew: in another process, or in its own after it gave up")
    check_ended(*stages, committed=120)
    server.check_counts(120)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_that_stands_still_for_longer_than_its_lease(stage, replicas):
    server, stages = training(replicas, stage)
    stages[stage].fork.stop()
    stages[1 - stage].heard("was silent for longer than its lease")
    stages[stage].fork.go_on()
    check_ended(*stages, committed=120)
    server.check_counts(120)


def test_a_stage_that_stands_still_for_less_than_its_lease(replicas):
    server, stages = training(replicas, 1, "--lease", 30)
    stages[1].fork.stop()
    threading.Event().wait(1.0)  # nothing is to happen
    stages[1].fork.go_on()
    check_ended(*stages, committed=120)
    assert all("dropped" not in stage.log for stage in stages)
    server.check_counts(120)


def test_all_stages_are_started_again(replicas):
    server, stages = training(replicas, 0)
    for stage in stages:
        stage.fork.kill()
    stages = replicas.replica(server.url, **SLOW)
    check_ended(*stages, committed=120)
    server.check_counts(120)
    assert stages[0].steps[0]["place"] >= 20


def test_the_server_is_stopped_and_goes_on(replicas):
    server, stages = training(replicas, 1)
    server.stop()
    server = replicas.serve(*ASYNC, "--until", 120, "--resume", port=server.port)
    check_ended(*stages, committed=120)
    server.check_counts(120)


def test_the_server_crashes_and_goes_back(replicas):
    """To an older state: the batches behind it are trained again, since it has lost them."""
    server, stages = training(replicas, 1, "--checkpoint-every", 16, steps=40)
    server.kill()
    server = replicas.serve(*ASYNC, "--until", 120, "--resume", port=server.port)
    for stage in stages:
        assert stage.ended()["committed"] == 120
    server.check_counts(120)


def test_the_server_crashes_and_has_forgotten_everything(replicas):
    """The stages give it their values back, and their places begin anew."""
    server = replicas.serve(*ASYNC, "--until", 40)
    stages = replicas.replica(server.url, **SLOW)
    stages[1].trained(20)
    # Not between two replies, where the stages hold different versions: one stands still, and the other can only wait.
    stages[1].fork.stop()
    until(lambda: all(stage["state"] in ("computing", "pushed") for stage in server.worker()["stages"]), lambda: "idle")
    server.kill()
    stages[1].fork.go_on()
    server = replicas.serve(*ASYNC, "--until", 40, port=server.port)
    for stage in stages:
        assert stage.ended()["committed"] == 40
    counts = server.saved()
    assert all(count.tolist() == counts["0.count"].tolist() for count in counts.values())
    assert counts["0.count"].sum() >= 60


def test_a_server_that_is_away_for_a_while(replicas):
    server, stages = training(replicas, 1)
    server.fork.stop()
    threading.Event().wait(2 * LEASE)
    server.fork.go_on()
    check_ended(*stages, committed=120)
    server.check_counts(120)


def test_two_processes_for_one_stage(replicas):
    """The older one is told so and ends; the newer one goes on."""
    server, stages = training(replicas, 1)
    older = stages[1]
    stages[1] = replicas.stage(server.url, 1, **SLOW)
    row = older.ended(code=1)
    assert row["code"] == "fenced"
    assert row["error"] == "fenced: stage 1 of w0#1 began anew: in another process, or in its own after it gave up"
    check_ended(*stages, committed=120)
    server.check_counts(120)


MISFITS = {
    "model": ({"model": "tally of 5", "arguments": {"cut": "2,3"}}, "model is "),
    "cut": ({"arguments": {"cut": "1,3"}}, "cut is 1,3, and 2,2 in the others"),
    "micro-batches": ({"arguments": {"cut": "2,2", "micro_batches": 2}}, "micro_batches is 2, and 4 in the others"),
    "seed": ({"arguments": {"cut": "2,2", "seed": 3}}, "seed is 3, and 0 in the others"),
    "schedule": ({"arguments": {"cut": "2,2", "schedule": "gpipe"}}, "schedule is gpipe, and 1f1b in the others"),
    "torch": ({"torch": "1.13", **CUT}, "torch is 1.13, and 2"),
    "stages": ({"stages": 3, "arguments": {"cut": "1,1,2"}}, "it is one of 3 stages, and the others are of 2"),
}


def test_a_stage_that_does_not_fit(replicas):
    """It is refused with what differs, and the others train on."""
    server = replicas.serve(*ASYNC, "--until", 400)
    stages = replicas.replica(server.url, **SLOW)
    stages[1].trained(5)
    strangers = {
        name: replicas.stage(server.url, 1, **{"stages": 2, **settings}) for name, (settings, _) in MISFITS.items()
    }
    for name, stranger in strangers.items():
        row = stranger.ended(code=1)
        assert row["code"] == "stages-differ", name
        assert row["error"].startswith("stages-differ: stage 1 of w0 does not fit: "), name
        assert MISFITS[name][1] in row["error"], name
        assert row["error"].endswith("start all stages of a replica alike, or stop all of them before you change that")
    check_ended(*stages, committed=400)
    assert all("dropped" not in stage.log for stage in stages)
    server.check_counts(400)


def test_strangers_at_the_door(replicas):
    """Of a stage's port: what they send is not taken, and the stages train on."""
    server = replicas.serve(*ASYNC, "--until", 120)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = {"cut": "2,2", "port": port}
    first = replicas.stage(server.url, 0, **{**SLOW, "arguments": arguments})
    second = replicas.stage(server.url, 1, **SLOW)
    second.trained(20)
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert stranger.makefile("rb").readline().split()[1] == b"404"
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(bytes(range(256)))
        check_ended(first, second, committed=120)
    assert "dropped" not in first.log
    server.check_counts(120)


def test_a_loss_that_fails_once(replicas):
    server = replicas.serve(*ASYNC, "--until", 60)
    stages = [replicas.stage(server.url, 0, **CUT), replicas.stage(server.url, 1, **CUT, fails_at=20)]
    check_ended(*stages, committed=60)
    assert [row["place"] for row in stages[1].rows if "failed" in row] == [20]
    server.check_counts(60)


@pytest.mark.parametrize("seconds", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_run_that_is_over_after_a_time(mode, seconds, replicas):
    flags = ("--optimizer", "sgd", "--lr", 1, "--mode", mode, "--until-seconds", seconds)
    server = replicas.serve(*flags)
    stages = [
        replicas.stage(server.url, stage, rank=f"w{rank}", **SLOW, share=[rank, 2])
        for rank in range(2)
        for stage in range(2)
    ]
    committed = [stage.ended()["committed"] for stage in stages]
    assert committed[0] == committed[1]
    assert committed[2] == committed[3]
    counts = server.saved()
    assert all(count.tolist() == counts["0.count"].tolist() for count in counts.values())
