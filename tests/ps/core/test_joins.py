"""Replicas: how their lives begin and end. What they do in between is in `test_pulls` and `test_pushes`."""

from __future__ import annotations

import pytest

from leeway.protocol import limits
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Departed, Heartbeat, Join, Joined, Leave, Renewed
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import NotYet
from leeway.protocol.reasons import Reason
from leeway.protocol.replicas import Place, Stage
from leeway.ps.core.effects import Answered, Began, Ended, Forgotten, Parked
from leeway.ps.core.events import Gone, Paused, Stop
from leeway.ps.core.joins import REMEMBERED_PROCESSES
from leeway.ps.core.settings import GroupSettings
from tests.ps.core.conftest import code

A, B = (GroupSettings(PolicyTerms("async"), name, (f"{name}.*",)) for name in ("a", "b"))


@pytest.fixture
def server(serve):
    server = serve("async", lease_seconds=10.0)
    server.offer("w", "b")
    return server


# A life begins.


def test_it_begins_when_all_stages_are_there_and_all_are_told(server):
    first = server.sit(1, of=3, notes="one")
    assert server.effects == [
        Parked(first, None, "r0", 0, Reason.WAITING_FOR_STAGES, "r0 waits for its stages 0,2 of 3", (), 1)
    ]
    second, third = server.sit(2, of=3), server.sit(0, of=3)
    assert server.effects[0] == Began("r0", 1, 3)
    stages = (Stage("http://r0-0", ""), Stage("http://r0-1", "one"), Stage("http://r0-2", ""))
    for request in (first, second, third):
        joined = server.replies[request]
        assert (joined.incarnation, joined.resumed, joined.groups["default"].committed) == (1, False, 0)
        assert (joined.index, joined.count, joined.replica.stages) == (0, 1, stages)


def test_who_does_not_wait_is_told_for_whom_and_is_there_all_the_same(server):
    not_yet = server.replies[server.sit(0, wait_seconds=None)]
    assert (not_yet.reason, not_yet.waiting_for) == (Reason.WAITING_FOR_STAGES, ())
    joined = server.replies[server.sit(1, wait_seconds=None)]
    assert joined.incarnation == 1
    assert server.replies[server.sit(0)].resumed


def test_a_wait_ends_and_the_stage_is_there_until_its_lease_runs_out(server):
    request = server.sit(0, wait_seconds=5.0)
    server.tick(4.9)
    assert request not in server.replies
    server.tick(0.1)
    assert server.replies[request].reason is Reason.WAITING_FOR_STAGES
    server.tick(9.9)
    assert server.machine.joins.forming["r0"].missing == (1,)
    # A history has no tick that leads to nothing: it is told.
    assert server.tick(0.1) == [Forgotten("r0", 0)]
    assert not server.machine.joins.forming


def test_a_pause_is_part_of_no_wait_and_of_no_lease(server):
    waits, silent = server.sit(0, wait_seconds=5.0), server.sit(1, of=3, rank="r1", wait_seconds=None)
    assert isinstance(server.replies[silent], NotYet)
    server.now += 100.0
    server.step(Paused(100.0))
    server.tick(4.9)
    assert waits not in server.replies
    assert {"r0", "r1"} == server.machine.joins.forming.keys()
    server.tick(5.1)
    assert waits in server.replies
    assert {"r0"} == server.machine.joins.forming.keys()


def test_whose_connection_is_gone_is_there_and_not_told(server):
    request = server.sit(0)
    server.step(Gone(request))
    joined = server.replies[server.sit(1)]
    assert joined.incarnation == 1
    assert request not in server.replies


def test_a_newer_join_of_the_process_takes_the_place_of_the_one_that_waits(server):
    older = server.sit(0)
    newer = server.sit(0)
    assert server.replies[older].reason is Reason.REPLACED
    server.sit(1)
    assert isinstance(server.replies[newer], Joined)


def test_a_newer_process_takes_the_place_while_the_replica_forms(server):
    older = server.sit(0, session="old")
    newer = server.sit(0, session="new")
    assert code(server.replies[older]) is Code.FENCED
    assert code(server.replies[server.sit(0, session="old")]) is Code.FENCED
    server.sit(1)
    assert server.replies[newer].incarnation == 1


def test_a_join_once_more_tells_the_same_and_may_name_another_address(server):
    server.replica()
    again = server.replies[server.sit(1, notes="moved")]
    assert (again.resumed, again.incarnation, again.replica.stages[1].notes) == (True, 1, "moved")


def test_the_stop_is_told_to_those_who_wait(server):
    request = server.sit(0)
    server.step(Stop())
    assert code(server.replies[request]) is Code.STOPPING


def test_so_many_processes_of_a_stage_are_remembered(server):
    for number in range(REMEMBERED_PROCESSES + 1):
        server.sit(0, session=f"p{number}")
    assert code(server.replies[server.sit(0, session="p1")]) is Code.FENCED
    assert server.sit(0, session="p0") not in server.replies


# A life ends, and the next one begins.


def test_a_new_process_ends_the_life_and_the_others_come_back(server):
    old = server.replica(3)
    server.sit(1, of=3, session="new")
    assert (
        Ended(
            "r0",
            1,
            Reason.NEW_SESSION,
            "stage 1 of r0#1 began anew: in another process, or in its own after it gave up",
        )
        in server.effects
    )
    told = [code(server.ask(Heartbeat(life))) for life in old]
    assert told == [Code.STAGE_REPLACED, Code.FENCED, Code.STAGE_REPLACED]
    assert code(server.replies[server.sit(1, of=3)]) is Code.FENCED
    server.sit(0, of=3)
    assert server.replies[server.sit(2, of=3)].incarnation == 2


def test_the_lease_of_each_stage_runs_by_itself(server):
    lives = server.replica(3)
    server.now += 6.0
    for life in lives[:2]:
        assert server.ask(Heartbeat(life)) == Renewed(10.0)
    server.tick(3.9)
    assert server.machine.membership.of_rank("r0")
    server.tick(0.1)
    silent = "stage 2 of r0#1 was silent for longer than its lease of 10 s"
    assert Ended("r0", 1, Reason.LEASE_EXPIRED, silent) in server.effects
    told = [code(server.ask(Heartbeat(life))) for life in lives]
    assert told == [Code.STAGE_LOST, Code.STAGE_LOST, Code.EVICTED]


def test_the_process_of_a_stage_that_was_lost_may_come_back_itself(server):
    server.replica()
    server.tick(10.0)
    server.sit(0)
    assert server.replies[server.sit(1)].incarnation == 2


def test_an_iteration_that_takes_too_long_ends_the_life_by_no_stage(serve):
    server = serve("async", lease_seconds=100.0, max_iteration_seconds=5.0)
    server.offer()
    lives = server.replica()
    server.pull(lives[0])
    server.tick(5.0)
    assert [code(server.ask(Heartbeat(life))) for life in lives] == [Code.EVICTED, Code.EVICTED]


def test_those_of_the_life_before_are_expected_for_their_lease(server):
    server.replica(plan={"model": "a"})
    server.sit(1, session="new", plan={"model": "a"})
    server.tick(9.9)
    other = {"plan": {"model": "b"}, "session": "newest"}
    assert code(server.replies[server.sit(1, **other, rank="r0")]) is Code.STAGES_DIFFER
    server.tick(10.1)
    # Its own process waits all the while; whoever replaces it may be otherwise, for nobody else is there.
    request = server.sit(1, **other)
    assert request not in server.replies
    assert server.replies[server.sit(0, plan={"model": "b"}, session="newest")].incarnation == 2


def test_they_are_forgotten_when_none_comes(server):
    server.replica()
    server.now += 5.0
    server.send(Leave(Life("r0", 1, 1, 0)))
    assert list(server.machine.joins.forming["r0"].expected) == [1]
    server.tick(10.0)
    assert not server.machine.joins.forming


# What does not fit.


def test_a_newcomer_that_differs_is_refused_and_changes_nothing(server):
    lives = server.replica(plan={"model": "a", "seed": "1"})
    refused = server.replies[server.sit(1, session="new", plan={"model": "b", "seed": "1"})]
    assert code(refused) is Code.STAGES_DIFFER
    assert refused.error.detail == (
        "stage 1 of r0 does not fit: model is b, and a in the others; start all stages of a replica alike, or stop all"
        " of them before you change that"
    )
    assert code(server.replies[server.sit(2, of=3, session="new")]) is Code.STAGES_DIFFER
    assert [server.ask(Heartbeat(life)) for life in lives] == [Renewed(10.0)] * 2


def test_while_it_forms_too(server):
    waits = server.sit(0, of=3, plan={"model": "a"})
    assert code(server.replies[server.sit(1, of=3, plan={"model": "b"})]) is Code.STAGES_DIFFER
    assert waits not in server.replies
    assert server.machine.joins.forming["r0"].missing == (1, 2)


def test_a_replica_of_one_stage_is_as_its_newest_process_has_it(server):
    (old,) = server.replica(1, plan={"model": "a"})
    (new,) = server.replica(1, plan={"model": "b"}, session="new")
    assert (old.incarnation, new.incarnation) == (1, 2)
    assert code(server.ask(Heartbeat(old))) is Code.FENCED


def test_alone_its_newer_process_may_be_otherwise_while_it_forms(server):
    older = server.sit(0, plan={"model": "a"})
    server.sit(0, of=3, session="new", plan={"model": "b"})
    assert code(server.replies[older]) is Code.FENCED
    assert server.machine.joins.forming["r0"].stages == 3


def test_a_key_of_another_stage_is_refused(server):
    keys = {"keys": ("w", "b"), "owned": ("w",)}
    waits = server.sit(0, **keys)
    refused = server.replies[server.sit(1, **keys)]
    assert code(refused) is Code.STAGES_DIFFER
    assert "w is owned by stage 0, and stage 1 says that it owns it too" in refused.error.detail
    server.sit(1, keys=("w", "b"), owned=("b",))
    assert isinstance(server.replies[waits], Joined)
    assert code(server.replies[server.sit(1, session="new", **keys)]) is Code.STAGES_DIFFER


def test_a_replica_is_in_one_group_that_is_there(serve):
    server = serve(groups=(A, B))
    refused = server.replies[server.sit(0)]
    assert code(refused) is Code.INVALID_VALUE
    assert refused.error.detail == "the stages of a replica share one group; name one of a, b"
    made = server.ask(Join("r0", "s", ("c",), ("c",), place=Place(0, 2)))
    assert code(made) is Code.INVALID_VALUE
    assert code(server.replies[server.sit(0, groups=("c",))]) is Code.UNKNOWN_GROUP
    waits = server.sit(0, groups=("a",))
    refused = server.replies[server.sit(1, groups=("b",))]
    assert "group is b, and a in the others" in refused.error.detail
    server.sit(1, groups=("a",))
    assert server.replies[waits].groups.keys() == {"a"}


def test_the_number_of_ranks_is_bounded_those_that_form_among_them(server, monkeypatch):
    monkeypatch.setattr(limits, "MAX_RANKS", 1)
    server.sit(0)
    assert code(server.replies[server.sit(0, rank="r1")]) is Code.BUSY
    assert code(server.ask(Join("w0", "s"))) is Code.BUSY
    assert isinstance(server.replies[server.sit(1)], Joined)


# Workers and replicas.


def test_a_worker_takes_the_rank_of_a_replica(server):
    lives = server.replica()
    worker = server.join("r0")
    assert worker.incarnation == 2
    assert [code(server.ask(Heartbeat(life))) for life in lives] == [Code.FENCED, Code.FENCED]
    assert not server.machine.joins.forming


def test_a_worker_takes_the_rank_of_a_replica_that_forms(server):
    request = server.sit(0)
    server.join("r0")
    assert code(server.replies[request]) is Code.FENCED
    assert not server.machine.joins.forming


def test_a_replica_takes_the_rank_of_a_worker(server):
    worker = server.join("r0")
    server.sit(0)
    assert code(server.ask(Heartbeat(worker))) is Code.FENCED
    assert server.replies[server.sit(1)].incarnation == 2


# Goodbyes.


def test_a_stage_that_leaves_ends_the_life(server):
    lives = server.replica(3)
    assert server.ask(Leave(lives[1])) == Departed("r0")
    assert Ended("r0", 1, Reason.LEFT, "stage 1 of r0#1 left") in server.effects
    assert [code(server.ask(Heartbeat(life))) for life in lives] == [Code.STAGE_LOST, Code.LEFT, Code.STAGE_LOST]
    assert server.ask(Leave(lives[1])) == Departed("r0")
    assert server.machine.joins.forming["r0"].expected.keys() == {0, 2}


def test_at_the_end_each_stage_says_goodbye(serve):
    server = serve("async", until=1, workers=2)
    server.offer()
    server.join("w0"), server.join("w1")
    lives = server.replica(3)
    server.iterate(lives)
    assert code(server.pull(lives[0], 1)) is Code.FINISHED
    assert server.ask(Leave(lives[0])) == Departed("r0")
    assert server.ask(Leave(lives[0])) == Departed("r0")
    assert code(server.ask(Heartbeat(lives[0]))) is Code.LEFT
    # Its lease is nobody's any more.
    server.now += 8.0
    for life in lives[1:]:
        assert server.ask(Heartbeat(life)) == Renewed(10.0)
    server.tick(5.0)
    assert [server.ask(Leave(life)) for life in lives[1:]] == [Departed("r0")] * 2
    assert Ended("r0", 1, Reason.LEFT, "stage 2 of r0#1 left") in server.effects
    assert not server.machine.joins.forming


def test_who_leaves_in_the_middle_of_an_iteration_is_not_at_the_end(serve):
    """The run is over, and the replica is waited for: who leaves then takes its life."""
    server = serve("async", until_seconds=5.0)
    server.offer()
    lives = server.replica()
    server.pull(lives[0])
    server.tick(5.0)
    server.ask(Leave(lives[0]))
    assert server.machine.membership.of_rank("r0") is None


def test_who_says_goodbye_while_the_replica_forms_is_answered_and_not_waited_for(server):
    lives = server.replica(3)
    server.ask(Leave(lives[2]))
    request = server.sit(0, of=3)
    assert server.ask(Leave(lives[0])) == Departed("r0")
    assert code(server.replies[request]) is Code.LEFT
    assert server.machine.joins.forming["r0"].missing == (0, 1, 2)
    server.ask(Leave(lives[1]))
    assert not server.machine.joins.forming
    assert server.ask(Leave(lives[1])) == Departed("r0")


def test_a_late_goodbye_is_not_that_of_the_process_in_its_place(server):
    lives = server.replica()
    waits = server.sit(1, session="new")
    assert code(server.ask(Leave(lives[1]))) is Code.FENCED
    server.sit(0)
    assert server.replies[waits].incarnation == 2


# The end of the run.


def test_who_waits_when_the_run_is_over_is_told_so(serve):
    server = serve("async", until_seconds=5.0)
    server.offer()
    request = server.sit(0)
    server.tick(5.0)
    assert code(server.replies[request]) is Code.FINISHED
    assert code(server.replies[server.sit(1)]) is Code.FINISHED


def test_and_when_it_has_come_to_its_end(serve):
    server = serve("async", until=1)
    server.offer()
    request = server.sit(0)
    server.walk(server.join("w0"))
    assert code(server.replies[request]) is Code.FINISHED
    assert Answered(request, server.replies[request]) in server.effects


def test_a_run_that_is_over_waits_for_the_iteration_of_a_replica(serve):
    server = serve("async", until_seconds=5.0)
    server.offer()
    lives = server.replica()
    server.pull(lives[0])
    server.tick(5.0)
    assert server.pull(lives[1]).version.number == 1
    for life in lives:
        server.push(life)
    assert server.machine.finished
    assert server.machine.groups["default"].published == 2
