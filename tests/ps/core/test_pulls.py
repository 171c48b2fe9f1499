"""What holds under every policy before the policy is asked."""

from __future__ import annotations

import pytest

from leeway.protocol.membership import Leave
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Disposition, Push, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.versions import Version
from leeway.ps.core.effects import Pin
from leeway.ps.core.settings import GroupSettings


@pytest.fixture
def two(serve):
    server = serve("ssp", 1)
    server.offer()
    return server, server.join("w0"), server.join("w1")


def test_a_reader_gets_the_newest_version_under_any_policy(two):
    server, w0, _ = two
    server.walk(w0)
    reply = server.ask(Pull())
    assert reply == Granted(Version(1, 2), Reason.READER, count=2)


def test_what_is_held_already_is_not_sent_again(two):
    server, w0, _ = two
    held = server.ask(Pull(life=w0, clock=0)).version
    again = server.ask(Pull(life=w0, clock=0, since=held))
    assert (again.version, again.unchanged) == (held, True)


def test_a_version_that_is_not_out_is_waited_for(two):
    server, _, _ = two
    reply = server.ask(Pull(min_version=9))
    assert reply == NotYet(Reason.MIN_VERSION, "version 9 is not out, the newest is 1")


def test_every_answer_may_be_pushed_from(two):
    server, w0, w1 = two
    server.ask(Pull(life=w0, clock=0))
    server.walk(w1)
    later = server.ask(Pull(life=w0, clock=0))
    progress = server.machine.membership.of_rank("w0").groups["default"]
    assert list(progress.grants) == [(1, None), (later.version.number, None)]
    assert str(server.push(w0, version=1, kind=UpdateKind.GRADIENT)).startswith("applied @0")


@pytest.fixture
def replica(serve):
    """A worker w0, and a replica of two stages."""
    server = serve("async", lease_seconds=1000.0)
    server.offer()
    return server, server.join("w0"), server.replica()


def pinned(server):
    return server.machine.groups["default"].pinned


def test_the_iteration_of_a_replica_is_granted_once(replica):
    server, w0, lives = replica
    first = server.pull(lives[1])
    assert Pin("default", (1,)) in server.effects
    server.walk(w0)
    second = server.pull(lives[0])
    assert (first.version, second.version) == (Version(1, 1), Version(1, 1))
    assert not second.unchanged
    assert server.pull(lives[0], since=Version(1, 1)).unchanged
    server.walk(w0, 1)
    assert server.pull(lives[1]).version == Version(1, 1)
    for life in lives:
        server.push(life)
    assert pinned(server) == ()
    assert {server.pull(life, 1).version.number for life in lives} == {4}


def test_each_stage_waits_with_one_pull(serve):
    server = serve("async", workers=2)
    server.offer()
    lives = server.replica()
    older = server.send(Pull(life=lives[0], clock=0, wait_seconds=9.0))
    other = server.send(Pull(life=lives[1], clock=0, wait_seconds=9.0))
    newer = server.send(Pull(life=lives[0], clock=0, wait_seconds=9.0))
    assert server.replies[older].reason is Reason.REPLACED
    server.join("w0")
    assert {server.replies[request].version.number for request in (other, newer)} == {1}


def test_stages_that_wait_together_are_granted_together(serve):
    server = serve("ssp", 0, workers=2)
    server.offer()
    w0, lives = server.join("w0"), server.replica()
    server.iterate(lives)
    requests = [server.send(Pull(life=life, clock=1, wait_seconds=9.0)) for life in lives]
    assert not any(request in server.replies for request in requests)
    server.walk(w0)
    assert {server.replies[request].version.number for request in requests} == {3}


def test_the_versions_of_several_replicas_are_kept_as_long_as_they_compute(replica):
    server, w0, lives = replica
    others = server.replica(rank="r1")
    server.pull(lives[0])
    server.walk(w0)
    server.pull(others[0])
    assert pinned(server) == (1, 2)
    server.ask(Leave(lives[1]))
    assert pinned(server) == (2,)


def test_a_round_that_has_closed_without_a_replica_is_over_for_all_its_stages(serve):
    terms = PolicyTerms("sync", quorum=1, grace_seconds=0.0)
    server = serve(groups=(GroupSettings(terms),), lease_seconds=1000.0)
    server.offer()
    w0, lives = server.join("w0"), server.replica()
    for clock in range(2):
        server.walk(w0, clock)
    # The first stage that asks moves the replica on, and the other one asks under the old clock.
    requests = [server.send(Pull(life=life, clock=1, wait_seconds=99.0)) for life in lives]
    server.walk(w0, 2)
    assert [(reply.clock, reply.round) for reply in map(server.replies.get, requests)] == [(3, 3), (3, 3)]
    server.walk(w0, 3)
    late = [server.push(life, 3) for life in lives]
    assert [(reply.disposition, reply.next_clock) for reply in late] == [(Disposition.LATE, 5)] * 2
    # That iteration had its end: a stage that asks once more is told where to go on.
    assert server.pull(lives[0], 3).error.facts["clock"] == 5


def test_a_replica_that_computes_is_late_together(serve):
    terms = PolicyTerms("sync", quorum=1, grace_seconds=0.0)
    server = serve(groups=(GroupSettings(terms),), workers=2, lease_seconds=1000.0)
    server.offer()
    w0, lives = server.join("w0"), server.replica()
    first = server.pull(lives[0], 0)
    waits = server.send(Push(lives[0], 0, 1, UpdateKind.GRADIENT, 4, round=0, part=0, parts=2, wait_seconds=99.0))
    server.walk(w0, 0)
    second = server.pull(lives[1], 0)
    assert (second.version, second.round) == (first.version, first.round)
    late = server.push(lives[1], 0)
    assert late == server.replies[waits]
    assert (late.disposition, late.next_clock) == (Disposition.LATE, 2)


def test_a_replica_in_a_round_is_waited_for(serve):
    server = serve("sync", workers=2, lease_seconds=1000.0)
    server.offer()
    w0, lives = server.join("w0"), server.replica()
    server.pull(lives[0])
    server.walk(w0)
    assert server.machine.groups["default"].rounds.missing == {"r0"}
    assert server.pull(lives[1]).round == 0
    for life in lives:
        server.push(life)
    assert server.machine.groups["default"].published == 2
