"""A group whose rounds have a quorum: late pushes, workers that are moved on, the machine's deadline."""

import pytest

from leeway.protocol.codes import Code
from leeway.protocol.membership import Join
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pushes import Disposition, LastPush, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.tuning import SetPolicy
from leeway.ps.core.effects import Accepted, Drop, RoundClosed
from leeway.ps.core.events import Paused, Stop
from leeway.ps.core.saved import restore, save
from leeway.ps.core.settings import GroupSettings, Settings


@pytest.fixture
def server(serve):
    server = serve(
        groups=(GroupSettings(PolicyTerms("sync", quorum=2, grace_seconds=1.0)),), workers=3, lease_seconds=1e6
    )
    server.offer("w")
    return server


@pytest.fixture
def lives(server):
    lives = [server.join(rank) for rank in ("w0", "w1", "w2")]
    for life in lives:
        server.pull(life)
    return lives


def close(server, lives, clock=0):
    """The first two push, and the grace passes."""
    for life in lives[:2]:
        if clock:
            server.pull(life, clock)
        server.push(life, clock)
    return server.tick(1.0)


def test_the_machine_says_when_it_wants_to_be_called(server, lives):
    assert server.machine.next_deadline is None
    server.push(lives[0])
    assert server.machine.next_deadline is None
    server.tick(3.0)
    server.push(lives[1])
    assert server.machine.next_deadline == 4.0
    server.now += 0.5
    server.step(Paused(0.5))
    assert server.machine.next_deadline == 4.5
    (closed,) = [effect for effect in server.tick(1.0) if isinstance(effect, RoundClosed)]
    assert (closed.contributors, closed.late) == (("w0", "w1"), ("w2",))
    assert str(closed) == "round 0 closes: w0,w1 (8 samples) without w2"
    assert server.machine.next_deadline is None


def test_behind_a_stop_time_decides_nothing(server, lives):
    for life in lives[:2]:
        server.push(life)
    server.step(Stop())
    assert server.machine.next_deadline is None
    state = save(server.machine)[0]
    assert server.tick(1e7) == []
    assert save(server.machine)[0] == state


def test_a_late_push_is_dropped_and_told_where_to_go_on(server, lives):
    close(server, lives)
    late = server.push(lives[2])
    assert (late.disposition, late.reason, late.next_clock) == (Disposition.LATE, Reason.ROUND_CLOSED, 2)
    (accepted,) = [effect for effect in server.effects if isinstance(effect, Accepted)]
    assert accepted.samples == 4
    assert isinstance(server.effects[0], Drop)
    again = server.push(lives[2], version=1, round=0)
    assert (again.disposition, again.reason, again.next_clock) == (Disposition.LATE, Reason.REPEATED, 2)
    assert server.pull(lives[2], 1).error.code is Code.WRONG_CLOCK
    assert server.pull(lives[2], 2) is None
    close(server, lives, 1)
    joined = server.ask(Join("w2", "w2-session"))
    assert joined.groups["default"].clock == 2
    assert joined.groups["default"].last == LastPush(0, Disposition.LATE)


def test_the_pull_that_comes_with_a_late_push_is_of_the_next_round_to_open(server, lives):
    close(server, lives)
    assert server.push(lives[2], pull=True) is None
    request = server.requests
    close(server, lives, 1)
    member = server.machine.membership.find(lives[2])
    assert (member.groups["default"].clock, list(member.groups["default"].grants)) == (2, [(3, 2)])
    both = server.replies[request]
    assert (both.pushed.disposition, both.pushed.next_clock, both.pulled.clock) == (Disposition.LATE, 2, 2)


def test_who_has_not_pulled_is_moved_on_and_may_not_have_heard(server):
    lives = [server.join(rank) for rank in ("w0", "w1", "w2")]
    for life in lives[:2]:
        server.pull(life)
    close(server, lives)
    assert server.pull(lives[2], 0) is None
    close(server, lives, 1)
    for asked in (0, 1, 2):
        assert server.pull(lives[2], asked).clock == 2
    assert server.pull(lives[2], 3).error.code is Code.WRONG_CLOCK
    assert server.push(lives[2], 2).disposition is Disposition.HELD
    assert server.pull(lives[2], 0).error.code is Code.WRONG_CLOCK


def test_a_push_of_a_grant_that_was_under_way_is_late_and_nobody_leaves_the_open_round(server, lives):
    close(server, lives)
    server.pull(lives[2], 0)  # the answer was lost, or so it seems
    close(server, lives, 1)
    group = server.machine.groups["default"]
    assert (group.rounds.number, list(group.rounds.missing)) == (2, ["w0", "w1", "w2"])
    late = server.push(lives[2], 0, version=1, round=0)
    assert (late.disposition, late.next_clock) == (Disposition.LATE, 2)
    assert list(group.rounds.missing) == ["w0", "w1", "w2"]
    server.pull(lives[2], 2)
    assert server.push(lives[2], 2).disposition is Disposition.HELD


def test_a_late_push_settles_with_its_first_part(server, lives):
    server.push(lives[2], parts=2, part=0, keys=("w",))
    staged = server.requests
    close(server, lives)
    late = server.push(lives[2], parts=2, part=1, keys=("b",), version=1, round=0)
    assert late.disposition is Disposition.LATE
    assert [effect.bodies for effect in server.effects if isinstance(effect, Drop)] == [(staged,), (server.requests,)]


def test_a_late_skip_is_late(server, lives):
    close(server, lives)
    assert server.push(lives[2], kind=UpdateKind.SKIP).disposition is Disposition.LATE


def test_it_outlives_a_restart(server, lives):
    close(server, lives)
    server.push(lives[2])
    server.pull(lives[0], 1)
    server.push(lives[0], 1)
    state, bodies = save(server.machine)
    settings = Settings(groups=(GroupSettings(),), workers=3, lease_seconds=1e6)
    machine = restore(settings, state, bodies, 1, 100.0)
    group = machine.groups["default"]
    assert group.policy.terms == PolicyTerms("sync", quorum=2, grace_seconds=1.0)
    assert machine.next_deadline is None
    assert machine.membership.find(lives[2]).groups["default"].record.next_clock == 2
    state["groups"]["default"]["quorum"] = 1
    assert restore(settings, state, bodies, 1, 100.0).next_deadline == 101.0


def test_who_was_moved_on_is_so_after_a_restart(server):
    lives = [server.join(rank) for rank in ("w0", "w1", "w2")]
    for life in lives[:2]:
        server.pull(life)
    close(server, lives)
    server.pull(lives[2], 0, wait_seconds=None)
    state, bodies = save(server.machine)
    progress = state["ranks"]["w2"]["lives"][0]["groups"]["default"]
    assert (progress["clock"], progress["passed"]) == (2, 0)
    machine = restore(server.machine.settings, state, bodies, 1, 100.0)
    assert machine.membership.find(lives[2]).groups["default"].has_passed(1)
    progress["passed"] = 3
    with pytest.raises(ValueError, match="moved back"):
        restore(server.machine.settings, state, bodies, 1, 100.0)


def test_a_switch_between_policies_with_rounds_leaves_the_round_open(server, lives):
    server.push(lives[0])
    state = server.ask(SetPolicy(PolicyTerms("sync")))
    assert state.terms == PolicyTerms("sync")
    server.push(lives[1])
    assert server.machine.next_deadline is None
    state = server.ask(SetPolicy(PolicyTerms("sync", quorum=1)))
    assert str(state) == "policy sync(quorum 1, grace auto)"
    assert server.ask(SetPolicy(PolicyTerms("ssp", 1, quorum=2))).error.code is Code.INVALID_VALUE


def test_a_worker_that_waits_for_a_version_takes_part_again_without_asking_again(server):
    lives = [server.join(rank) for rank in ("w0", "w1", "w2")]
    for life in lives[:2]:
        server.pull(life)
    request = server.requests + 1
    assert server.pull(lives[2], 0, min_version=4) is None
    close(server, lives)
    close(server, lives, 1)
    assert request not in server.replies
    close(server, lives, 2)
    granted = server.replies[request]
    assert (granted.version.number, granted.clock, granted.round) == (4, 3, 3)
