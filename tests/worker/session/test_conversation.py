"""The session by tables: in this state, on this input, that is sent next and that is told."""

import dataclasses
import random

import pytest

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Departed, GroupState, Join, Joined, Leave
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Disposition, Push, Pushed, PushPulled, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.protocol.times import StepTimes
from leeway.protocol.versions import Version
from leeway.worker.session import backoff
from leeway.worker.session.conversation import Conversation
from leeway.worker.session.shared_life import SharedLife
from leeway.worker.session.states import Ending, Outcome, State
from tests.worker.session.talking import WEIGHT, at, granted, joined, pushed, session, tell

# The plain way.


def test_the_plain_way():
    it = session()
    assert it.ask() == Join("w0", "s1", ("default",))
    tell(it, joined(clock=4))
    assert (it.life, it.clock, it.shared.lease_seconds, it.index, it.count) == (Life("w0", 7, 1), 4, 10.0, 1, 4)
    assert (it.policy, it.shared.barriers, it.specs) == ("ssp(3)", {"eval": 2}, (WEIGHT,))
    assert it.ask() == Pull("default", Life("w0", 7, 1), 4, wait_seconds=20.0)
    tell(it, granted(4, 9, round=4))
    assert it.state is State.COMPUTING
    assert it.ask() is None
    assert (it.index, it.count) == (2, 3)
    times = StepTimes(3, 1.0, 0.1, 0.5, 0.2)
    it.computed(UpdateKind.DELTA, 32, ("weight",), {"loss": 0.5}, times=times)
    push = it.ask()
    assert push == Push(
        life=Life("w0", 7, 1),
        clock=4,
        version=9,
        kind=UpdateKind.DELTA,
        samples=32,
        round=4,
        keys=("weight",),
        pull=True,
        since=Version(7, 9),
        wait_seconds=20.0,
    )
    assert (push.metrics, push.times) == ({"loss": 0.5}, times)
    assert it.in_hand
    tell(it, PushPulled(pushed(4), granted(5, 10)))
    assert it.outcome == Outcome(4, Disposition.APPLIED, Reason.ON_ARRIVAL, 6, 0)
    assert (it.state, it.clock, it.grant, it.in_hand) == (State.COMPUTING, 5, granted(5, 10), False)
    it.leave()
    assert it.ask() == Leave(Life("w0", 7, 1))
    tell(it, Departed("w0"))
    assert (it.state, it.ending, it.ask()) == (State.ENDED, Ending.LEFT, None)


def test_a_push_without_a_pull_is_followed_by_a_pull():
    it = at(State.COMPUTING)
    it.computed(UpdateKind.GRADIENT, 1, ("weight",), pull=False)
    assert (it.ask().pull, it.ask().wait_seconds, it.ask().since) == (False, None, None)
    tell(it, pushed(0))
    assert it.ask() == Pull("default", it.life, 1, since=Version(7, 5), wait_seconds=20.0)


@pytest.mark.parametrize("pulled", [NotYet(Reason.LAG, "leads w1 by 4 > 3", ("w1",)), refuse(Code.STOPPING, "later")])
def test_a_pushpull_whose_pull_is_not_answered_is_followed_by_plain_pulls(pulled):
    it = at(State.PUSHING)
    tell(it, PushPulled(pushed(0), pulled))
    assert it.outcome.disposition is Disposition.APPLIED
    assert isinstance(it.ask(), Pull)
    assert it.ask().clock == 1


def test_a_skip_carries_nothing():
    it = at(State.COMPUTING)
    it.skip()
    push = it.ask()
    assert (push.kind, push.samples, push.keys, push.pull) == (UpdateKind.SKIP, 0, (), True)
    tell(it, pushed(0, Disposition.SKIPPED, Reason.SKIPPED))
    assert it.outcome.disposition is Disposition.SKIPPED


def test_a_second_pull_of_the_same_iteration():
    it = at(State.COMPUTING)
    it.pull()
    assert it.ask() == Pull("default", it.life, 0, since=Version(7, 5), wait_seconds=20.0)


@pytest.mark.parametrize("state", [State.JOINING, State.PULLING, State.PUSHING, State.LEAVING])
def test_an_update_needs_an_answered_pull(state):
    with pytest.raises(ValueError, match=f"this session is {state}"):
        at(state).computed(UpdateKind.GRADIENT, 1)


def test_a_reader_of_the_log_sees_where_it_stands():
    it = at(State.PUSHING, clock=3)
    assert str(it) == "w0#1@3 pushing"
    tell(it, pushed(3))
    assert str(it.outcome) == "applied @3 (on-arrival)"
    it.leave()
    assert str(it) == "w0#1@4 left"


# Replies that count and replies that do not.


def test_the_same_request_until_it_is_answered_or_lost():
    it = at(State.PUSHING)
    first = it.ask()
    assert it.ask() is first
    it.lost()
    again = it.ask()
    assert again == first
    assert again is not first
    assert again.to_fields() == first.to_fields()


def test_a_reply_to_an_attempt_that_is_over_is_ignored():
    it = at(State.PUSHING)
    first = it.ask()
    it.lost()
    it.ask()
    it.answered(first, pushed(0))
    assert it.state is State.PUSHING
    tell(it, pushed(0))
    assert it.clock == 1
    it.answered(first, pushed(0))
    it.answered(None, pushed(1))
    assert it.clock == 1


def test_a_reply_of_another_kind_is_an_error_and_changes_nothing():
    it = at(State.PULLING)
    with pytest.raises(WireError, match="the server answered pull w0#1@0 with: w0 has left"):
        tell(it, Departed("w0"))
    assert it.state is State.PULLING


def test_a_join_without_the_group_is_an_error():
    it = session()
    reply = Joined(7, 1, False, 10.0, 0, 1, {})
    with pytest.raises(WireError, match="not its group 'default'"):
        tell(it, reply)


# Waiting.


def test_not_yet_is_asked_again_at_once_and_is_no_failure():
    it = at(State.PULLING)
    it.lost()
    it.lost()
    assert it.delay_seconds > 0
    tell(it, NotYet(Reason.LAG, "leads w1 by 4 > 3", ("w1",)), retry_after_seconds=1.0)
    assert (it.delay_seconds, it.state) == (0.0, State.PULLING)


@pytest.mark.parametrize(("wish", "delay"), [(None, backoff.BASE_SECONDS), (3.0, 3.0)])
def test_not_yet_to_a_pull_that_does_not_park_is_no_busy_loop(wish, delay):
    it = at(State.PULLING, wait_seconds=None)
    assert it.ask().wait_seconds is None
    tell(it, NotYet(Reason.LAG, "ahead"), retry_after_seconds=wish)
    assert it.delay_seconds == delay


def test_losses_grow_the_back_off_and_a_grant_ends_it():
    it = at(State.PULLING)
    ceilings = []
    for failures in range(1, 40):
        it.lost()
        ceilings.append(min(backoff.CAP_SECONDS, backoff.BASE_SECONDS * 2**failures))
        assert 0.0 <= it.delay_seconds <= ceilings[-1]
    tell(it, granted())
    assert it.delay_seconds == 0.0


# Barriers.


def test_an_update_in_hand_is_parted_from_the_pull_behind_it():
    it = at(State.PUSHING)
    before = it.ask()
    assert it.part()
    alone = it.ask()
    assert alone == dataclasses.replace(before, pull=False, since=None, wait_seconds=None)
    assert not it.part(), "it is asked for alone already"
    assert it.ask() is alone
    it.answered(before, PushPulled(pushed(0), granted(1)))
    assert it.in_hand, "the reply to what was given up does not count"
    tell(it, pushed(0))
    assert (it.in_hand, it.ask()) == (
        False,
        Pull("default", Life("w0", 7, 1), 1, since=Version(7, 5), wait_seconds=20.0),
    )
    assert not it.part(), "nothing is in hand"


def test_an_update_is_parted_also_while_its_life_is_asked_for():
    it = at(State.PUSHING)
    tell(it, refuse(Code.OLD_EPOCH, "over"))
    join = it.ask()
    assert it.part()
    assert it.ask() is join
    tell(it, joined(resumed=True))
    assert (it.ask().clock, it.ask().pull) == (0, False)


def test_values_are_named_and_a_skip_has_none():
    it = at(State.COMPUTING)
    it.computed(UpdateKind.GRADIENT, 4, ("weight", "frozen"), values=("frozen",))
    push = it.ask()
    assert (push.keys, push.values) == (("weight", "frozen"), ("frozen",))
    tell(it, refuse(Code.NON_FINITE, "weight has a NaN"))
    assert (it.ask().keys, it.ask().values) == ((), ())


@pytest.mark.parametrize(("told", "reason"), [("step_failed", Reason.STEP_FAILED), ("too_few", Reason.TOO_FEW_UPDATES)])
def test_a_held_update_that_made_no_step_is_told_with_the_next_grant(told, reason):
    session = Conversation(SharedLife("w0", lambda: "s"), random=random.Random(1))
    life = {"epoch": 1, "incarnation": 1, "resumed": False, "lease_seconds": 9.0, "index": 0, "count": 1}
    session.answered(session.ask(), Joined(groups={"default": GroupState(0, "sync")}, **life))
    session.answered(session.ask(), Granted(Version(1, 1), Reason.GRANTED, clock=0, round=0))
    session.computed(UpdateKind.GRADIENT, 1)
    failed = Granted(Version(1, 2), Reason.GRANTED, clock=1, round=1, **{told: True})
    session.answered(session.ask(), PushPulled(Pushed(0, Disposition.HELD, Reason.IN_ROUND), failed))
    assert (session.outcome.disposition, session.outcome.reason) == (Disposition.HELD, reason)
