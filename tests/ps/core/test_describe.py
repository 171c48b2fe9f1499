from __future__ import annotations

import json

from leeway.protocol.membership import Leave
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.tuning import SetPolicy
from leeway.ps.core import describe
from leeway.ps.core.settings import GroupSettings


def of(status, rank):
    (worker,) = [worker for worker in status["workers"] if worker["rank"] == rank]
    return worker


def test_status_answers_why_am_i_waiting_and_for_whom(serve):
    server = serve("ssp", 0, workers=2, until=7)
    server.offer()
    w0, w1 = server.join("w0"), server.join("w1")
    server.join("w2")
    server.walk(w0)
    server.send(Pull(life=w0, clock=1, wait_seconds=50))
    server.send(Pull(min_version=9, wait_seconds=50))
    server.pull(w1)
    server.now = 4.0
    status = describe.status(server.machine, 4.0)
    assert json.loads(json.dumps(status)) == status
    assert (status["epoch"], status["until"], status["stopping"], status["finished"]) == (1, 7, False, False)
    assert status["barriers"] == {}
    assert status["groups"]["default"] == {
        "policy": {"group": "default", "mode": "ssp", "staleness": 0, "switching_at": None},
        "until": 7,
        "version": 2,
        "min_clock": 0,
        "tensors": 1,
        "round": {"number": 0, "state": "waiting", "waits_for": []},
        "readers_waiting": 1,
    }
    assert of(status, "w0") == {
        "rank": "w0",
        "incarnation": 1,
        "lease_left_seconds": 10.0,
        "groups": {
            "default": {
                "clock": 1,
                "lag": 1,
                "state": "waiting",
                "why": {"reason": "lag", "detail": "w0 leads w1,w2 by 1 > 0", "waiting_for": ["w1", "w2"]},
            }
        },
    }
    assert of(status, "w1")["groups"]["default"]["state"] == "computing"
    assert of(status, "w1")["lease_left_seconds"] == 6.0
    assert of(status, "w2")["groups"]["default"]["state"] == "idle"


def test_status_names_those_who_are_waited_for_now(serve):
    server = serve("ssp", 0, workers=2)
    server.offer()
    w0, w1 = server.join("w0"), server.join("w1")
    server.join("w2")
    server.walk(w0)
    server.send(Pull(life=w0, clock=1, wait_seconds=50))
    server.walk(w1)
    why = of(describe.status(server.machine, 0.0), "w0")["groups"]["default"]["why"]
    assert why["waiting_for"] == ["w2"]


def test_one_line_for_each_group(serve):
    server = serve(
        groups=(GroupSettings(PolicyTerms("ssp", 0), "a", ("a",)), GroupSettings(PolicyTerms("sync"), "b", ("b",))),
        workers=2,
    )
    assert describe.line(server.machine) == "nobody  min=0 v0 | nobody  min=0 v0 round 0 waiting"


def test_the_line_shows_grants_waits_and_what_is_in_flight(serve):
    server = serve("sync", workers=3)
    server.offer()
    lives = [server.join(rank) for rank in ("w10", "w2", "w1")]
    for life in lives:
        server.pull(life)
    server.push(lives[2])
    server.pull(lives[2], 1)
    assert describe.line(server.machine) == "w1@1 (waits) w2@0* w10@0*  min=0 v1 round 0 waits for w2,w10"
    status = describe.status(server.machine, 0.0)
    assert status["groups"]["default"]["round"]["waits_for"] == ["w2", "w10"]
    server.holding = True
    server.push(lives[0])
    server.push(lives[1])
    assert describe.line(server.machine) == "w1@1 (waits) w2@1 w10@1  min=1 v1..2 round 0 applying"
    server.ask(SetPolicy(PolicyTerms("async")))
    assert describe.line(server.machine) == "w1@1 (waits) w2@1 w10@1  min=1 v1..2"


def test_a_replica_shows_its_stages_and_one_that_forms_what_it_lacks(serve):
    server = serve(workers=2)
    server.offer()
    server.sit(1, of=3, rank="r1")
    lives = server.replica()
    server.send(Pull(life=lives[0], clock=0, wait_seconds=50))
    status = describe.status(server.machine, 0.0)
    assert status["forming"] == [{"rank": "r1", "stages": 3, "missing": [0, 2]}]
    assert of(status, "r0")["stages"] == [
        {"stage": 0, "state": "waiting", "lease_left_seconds": 10.0},
        {"stage": 1, "state": "idle", "lease_left_seconds": 10.0},
    ]
    server.join("w0")
    server.pull(lives[1])
    server.push(lives[1])
    states = [stage["state"] for stage in of(describe.status(server.machine, 0.0), "r0")["stages"]]
    assert states == ["computing", "pushed"]


def test_a_stage_that_has_said_goodbye_is_shown_as_such(serve):
    server = serve(until=1, workers=2)
    server.offer()
    server.join("w0")
    lives = server.replica()
    server.iterate(lives)
    server.ask(Leave(lives[1]))
    states = [stage["state"] for stage in of(describe.status(server.machine, 0.0), "r0")["stages"]]
    assert states == ["idle", "left"]
