from __future__ import annotations

from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Answer, Park
from leeway.ps.core.policies import Sync
from leeway.ps.core.policies.policy import Reception
from leeway.ps.core.policies.switching import Switching
from leeway.ps.core.rounds import Rounds


def test_below_the_clock_of_the_switch_all_run_and_at_it_they_park(group_of):
    policy, view = Switching(Sync(), 5), group_of(w0=5, w1=4, w2=3)
    assert policy.pull(view, "w1") == Answer(Reason.GRANTED)
    words = "round 5, the first under sync, opens when all are there"
    assert policy.pull(view, "w0") == Park(Reason.SWITCHING, words, ("w1", "w2"), 5)
    assert policy.push(view, "w1") is Reception.ON_ARRIVAL
    assert policy.enter_clock(view) == 5


def test_at_the_clock_of_the_switch_it_says_what_is_waited_for_though_nobody_is_behind(group_of):
    policy, view = Switching(Sync(), 3), group_of(w0=3)
    words = "round 3 opens with 2 workers, 1 live"
    assert policy.pull(view, "w0") == Park(Reason.WAITING_FOR_WORKERS, words)
    view.clocks["w1"], view.stepping = 3, True
    words = "round 3 opens when the version that is being made is published"
    assert policy.pull(view, "w0") == Park(Reason.WAITING_FOR_STEP, words)


def test_its_first_round_opens_with_all_who_are_there(group_of):
    policy = Sync().adopted(group_of(w0=2, w1=2))
    assert policy == Switching(Sync(), 0)
    policy = Switching(Sync(), 5)
    view = group_of(w0=5, w1=4)
    view.rounds = Rounds(5)
    assert policy.members(view) == ()
    view.clocks["w1"] = 5
    assert policy.members(view) == ["w0", "w1"]
    assert policy.opened() == Sync()
