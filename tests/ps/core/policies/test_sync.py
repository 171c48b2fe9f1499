from __future__ import annotations

import pytest

from leeway.protocol.pushes import UpdateKind
from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Answer, Park
from leeway.ps.core.policies import Sync
from leeway.ps.core.rounds import Held


@pytest.fixture
def group(group_of):
    """Round 3 is open for w0 and w1, of which w0 has contributed; w2 has joined since."""
    group = group_of(w0=4, w1=3, w2=4)
    group.rounds.open(["w0", "w1"])
    group.rounds.contribute("w0", Held(UpdateKind.GRADIENT, 4, (1,)), 0.0)
    return group


def test_before_a_round_opens(group_of):
    assert Sync().pull(group_of(w0=3), "w0") == Park(Reason.WAITING_FOR_WORKERS, "round 3 opens with 2 workers, 1 live")


def test_a_round_waits_for_those_whom_a_quorum_left_behind(group_of):
    words = "round 3 opens with all; it waits for w1,w2"
    why = Park(Reason.NEXT_ROUND, words, ("w1", "w2"), 3)
    assert Sync().pull(group_of(w0=3, w1=1, w2=2), "w0") == why


def test_no_round_opens_while_a_version_is_being_made(group_of):
    view = group_of(w0=3, w1=3)
    view.stepping = True
    words = "round 3 opens when the version that is being made is published"
    assert Sync().pull(view, "w0") == Park(Reason.WAITING_FOR_STEP, words)
    view.stepping = False
    assert Sync().pull(view, "w0") == Park(Reason.NEXT_ROUND, "round 3 opens now")


def test_a_member_that_has_not_contributed_is_answered(group):
    assert Sync().pull(group, "w1") == Answer(Reason.GRANTED)


def test_a_member_that_has_contributed_waits_for_the_others(group):
    assert Sync().pull(group, "w0") == Park(Reason.WAITING_FOR_ROUND, "round 3 waits for w1", ("w1",), 4)


def test_a_joiner_waits_for_the_next_round(group):
    assert Sync().pull(group, "w2") == Park(
        Reason.NEXT_ROUND, "w2 goes on with round 4; round 3 waits for w1", ("w1",), 4
    )


def test_who_is_waited_for_stands_in_natural_order(group_of):
    group = group_of(w2=3, w9=3, w10=3, w11=4)
    group.rounds.open(["w10", "w9", "w2"])
    assert Sync().pull(group, "w11").waiting_for == ("w2", "w9", "w10")


def test_a_closed_round_waits_for_its_step(group):
    group.rounds.contribute("w1", Held(UpdateKind.GRADIENT, 4, (2,)), 0.0)
    group.rounds.close()
    assert Sync().pull(group, "w1") == Park(Reason.WAITING_FOR_STEP, "the step of round 3 is being applied")
