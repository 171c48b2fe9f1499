"""`sync` with a quorum: who is in a round, when it may close, what a grace is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.reasons import Reason
from leeway.ps.core import policies
from leeway.ps.core.decisions import Park
from leeway.ps.core.policies import Quorum
from leeway.ps.core.policies.policy import Reception
from leeway.ps.core.policies.quorum import advised
from leeway.ps.core.policies.switching import Switching
from leeway.ps.core.rounds import Held

SKIP = Held(UpdateKind.SKIP, 0, ())


@pytest.fixture
def view(group_of):
    view = group_of(w0=3, w1=3, w2=3)
    view.rounds.open(["w0", "w1", "w2"])
    return view


def test_members_are_those_whose_clock_is_the_rounds_number(group_of):
    view = group_of(w0=3, w1=2, w2=4, w3=3)
    assert Quorum(2).members(view) == ["w0", "w3"]
    view.workers_to_start = 5
    assert Quorum(2).members(view) == ()


def test_the_grace_begins_with_the_last_of_the_quorum(view):
    policy = Quorum(2, 0.5)
    assert policy.deadline(view) is None
    view.rounds.contribute("w1", SKIP, 10.0)
    assert policy.deadline(view) is None
    assert not policy.may_close(view, 99.0)
    view.rounds.contribute("w0", SKIP, 12.0)
    assert policy.deadline(view) == 12.5
    assert [policy.may_close(view, now) for now in (12.4, 12.5)] == [False, True]
    view.rounds.contribute("w2", SKIP, 12.1)
    assert policy.may_close(view, 12.1)


def test_how_many_must_come_before_who_waits_goes_on(view):
    policy = Quorum(2, 0.5)
    assert policy.needed(view, 3) == 2
    view.rounds.contribute("w1", SKIP, 10.0)
    assert [policy.needed(view, 2), Quorum(3, "auto").needed(view, 2), Quorum(9).needed(view, 2)] == [1, 2, 2]
    view.rounds.contribute("w0", SKIP, 12.0)
    # Time alone will close it; unless nothing is known yet of how long.
    assert policy.needed(view, 1) == 0
    view.rounds.gaps.clear()
    assert Quorum(2, "auto").needed(view, 1) == 1


def test_the_quorum_is_of_those_who_are_left(view):
    policy = Quorum(3, 1.0)
    view.rounds.contribute("w1", SKIP, 10.0)
    view.rounds.contribute("w0", SKIP, 12.0)
    assert policy.deadline(view) is None
    view.rounds.remove("w2")
    assert policy.may_close(view, 12.0)


def test_a_round_whose_members_have_all_gone_may_close(view):
    for rank in ("w0", "w1", "w2"):
        view.rounds.remove(rank)
    assert Quorum(2, 1.0).deadline(view) is None
    assert Quorum(2, 1.0).may_close(view, 0.0)


def test_a_pause_is_no_part_of_a_grace(view):
    policy = Quorum(2, 0.5)
    view.rounds.contribute("w1", SKIP, 10.0)
    view.rounds.contribute("w0", SKIP, 12.0)
    view.rounds.paused(5.0, 17.2)
    assert policy.deadline(view) == 17.5
    view.rounds.paused(5.0, 18.0)
    assert policy.deadline(view) == 18.5


def test_who_comes_after_the_end_is_late_and_goes_on_with_the_next_round(view):
    policy = Quorum(1, 0.0)
    view.rounds.contribute("w0", Held(UpdateKind.GRADIENT, 4, (1,)), 1.0)
    view.clocks["w0"] = 4
    assert policy.push(view, "w1") is Reception.IN_ROUND
    view.rounds.close()
    assert policy.push(view, "w1") is Reception.LATE
    assert [policy.caught_up(view, rank) for rank in ("w0", "w1")] == [4, 4]
    view.rounds.finish()
    assert [policy.caught_up(view, rank) for rank in ("w0", "w1")] == [4, 4]
    view.rounds.open(["w0"])
    assert policy.push(view, "w1") is Reception.LATE
    assert [policy.caught_up(view, rank) for rank in ("w0", "w1")] == [4, 5]


def test_auto_waits_for_all_until_a_gap_is_known(view):
    view.rounds.contribute("w1", SKIP, 10.0)
    assert Quorum(1).deadline(view) is None
    view.rounds.contribute("w0", SKIP, 12.0)
    assert Quorum(1).deadline(view) == 12.0
    assert Quorum(2).deadline(view) == 14.0


def test_auto_is_the_median_and_three_deviations():
    assert advised([]) is None
    assert advised([1.0]) == 1.0
    assert advised([1.0, 2.0, 4.0]) == 2.0 + 3 * 1.0
    assert advised([1.0, 1.0, 1.0, 100.0]) == 1.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=64))
def test_auto_lies_between_the_median_and_four_times_the_largest_gap(gaps):
    assert 0 <= advised(gaps) <= 4 * max(gaps) * (1 + 1e-9)


def test_a_live_run_comes_to_it_by_the_way_to_rounds(group_of):
    view = group_of(w0=5, w1=4, w2=1)
    view.furthest_granted = 5
    way = Quorum(2).adopted(view)
    assert way == Switching(Quorum(2), 5)
    view.rounds.number = 5
    assert way.members(view) == ()
    words = "round 5, the first under sync, opens when 2 of 3 are there"
    assert way.pull(view, "w0") == Park(Reason.SWITCHING, words, ("w1", "w2"), 5)
    view.clocks["w1"] = 5
    assert way.members(view) == ["w0", "w1"]
    assert way.opened() == Quorum(2)
    assert Quorum(1).opened() == Quorum(1)


def test_where_fewer_live_than_it_asks_for_the_way_to_it_waits_for_all(group_of):
    view, way = group_of(w0=5, w1=4), Switching(Quorum(3), 5)
    view.rounds.number = 5
    assert way.members(view) == ()
    words = "round 5, the first under sync, opens when all are there"
    assert way.pull(view, "w0") == Park(Reason.SWITCHING, words, ("w1",), 5)
    view.clocks["w1"] = 5
    assert way.members(view) == ["w0", "w1"]


def test_it_waits_for_nobody_before_a_round_opens(group_of):
    view = group_of(w0=3, w1=1)
    assert list(Quorum(1).awaited(view)) == []
    view.stepping = True
    words = "round 3 opens when the version that is being made is published"
    assert Quorum(1).pull(view, "w0") == Park(Reason.WAITING_FOR_STEP, words)


def test_what_makes_one():
    assert policies.make(PolicyTerms("sync", None, 2, 0.5)) == Quorum(2, 0.5)
    assert policies.make(PolicyTerms("sync", None, 2)) == Quorum(2, "auto")


def test_how_many_must_come_on_the_way_to_a_quorum(group_of):
    view = group_of(w0=3, w1=3, w2=1, w3=1)
    assert Switching(Quorum(3), 3).needed(view, 2) == 1
    assert Switching(Quorum(9), 3).needed(view, 2) == 2
    assert Switching(policies.Sync(), 3).needed(view, 2) == 2
