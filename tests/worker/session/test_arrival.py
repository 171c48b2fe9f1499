"""A worker at a named barrier, beside what its conversations ask for."""

import random

import pytest

from leeway.errors import WireError
from leeway.protocol.barriers import Barrier, Passed
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Departed, Join
from leeway.protocol.pulls import NotYet
from leeway.protocol.pushes import Disposition, LastPush, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.worker.session import backoff
from leeway.worker.session.arrival import Arrival
from leeway.worker.session.refusals import REACTIONS, Reaction
from leeway.worker.session.states import Ending, Outcome, State
from tests.worker.session.talking import at, granted, joined, pushed, session, tell


def arrive(it, name="eval", parties=1, wait_seconds=20.0):
    return Arrival(it.shared, name, parties, random=random.Random(1), wait_seconds=wait_seconds)


@pytest.mark.parametrize("state", [State.PULLING, State.COMPUTING, State.PUSHING])
def test_a_barrier_is_asked_until_it_is_passed_and_touches_nothing_else(state):
    it = at(state)
    grant, asked = it.grant, it.ask()
    arrival = arrive(it, "eval", 3)
    barrier = arrival.ask()
    assert barrier == Barrier(Life("w0", 7, 1), "eval", 2, 3, 20.0)
    tell(arrival, NotYet(Reason.BARRIER, "2 of 3", ("w1",)))
    assert (arrival.passed, arrival.ask(), arrival.delay_seconds) == (False, barrier, 0.0)
    arrival.lost(arrival.ask())
    assert arrival.delay_seconds > 0
    tell(arrival, refuse(Code.STOPPING, "later"), retry_after_seconds=2.0)
    assert arrival.delay_seconds >= 2.0
    tell(arrival, Passed("eval", 2))
    assert (arrival.passed, arrival.ask(), it.shared.barriers["eval"]) == (True, None, 3)
    assert (it.state, it.grant, it.ask()) == (state, grant, asked)


def test_a_barrier_that_does_not_park_is_no_busy_loop():
    arrival = arrive(at(State.COMPUTING), "first", wait_seconds=None)
    assert (arrival.ask().generation, arrival.ask().wait_seconds) == (0, None)
    tell(arrival, NotYet(Reason.BARRIER, "1 of 2"))
    assert arrival.delay_seconds == backoff.BASE_SECONDS


def test_a_life_comes_first():
    it = session()
    arrival = arrive(it)
    assert arrival.ask() is None
    tell(it, joined())
    assert arrival.ask().generation == 2


def test_a_reply_of_another_kind_is_an_error():
    arrival = arrive(at(State.PULLING))
    with pytest.raises(WireError, match="the server answered barrier eval/2 w0#1 with"):
        tell(arrival, Departed("w0"))
    assert not arrival.passed


def test_one_that_finds_the_life_gone_drops_what_is_being_computed():
    it = at(State.COMPUTING)
    arrival = arrive(it)
    tell(arrival, refuse(Code.EVICTED, "silent"))
    assert (arrival.ask(), it.ask()) == (None, Join("w0", "s2", ("default",)))
    it.computed(UpdateKind.GRADIENT, 1, ("weight",))
    assert it.outcome == Outcome(0, None, Code.EVICTED)
    assert not it.in_hand
    tell(it, joined(incarnation=2, clock=3))
    assert arrival.ask().life.incarnation == 2
    tell(arrival, Passed("eval", 2))
    tell(it, granted(3))
    it.computed(UpdateKind.GRADIENT, 1, ("weight",))
    assert it.in_hand


def test_a_grant_that_lapsed_unnoticed_does_not_drop_the_next_update():
    it = at(State.COMPUTING)
    tell(arrive(it), refuse(Code.OLD_EPOCH, "over"))
    tell(it, joined(epoch=8))
    tell(it, granted(0, epoch=8))
    it.computed(UpdateKind.GRADIENT, 1, ("weight",))
    assert it.in_hand


def test_a_refusal_of_one_that_is_over_is_ignored():
    it = at(State.COMPUTING)
    arrival = arrive(it)
    barrier = arrival.ask()
    arrival.lost(barrier)
    arrival.answered(barrier, refuse(Code.EVICTED, "silent"))
    delay = arrival.delay_seconds
    arrival.lost(barrier)
    assert (it.state, arrival.delay_seconds) == (State.COMPUTING, delay)


def test_a_refusal_under_a_life_that_was_replaced_meanwhile_is_ignored():
    it = at(State.PULLING)
    arrival = arrive(it)
    barrier = arrival.ask()
    tell(it, refuse(Code.EVICTED, "silent"))
    assert arrival.ask() is None
    tell(it, joined(incarnation=2))
    arrival.answered(barrier, refuse(Code.EVICTED, "silent"))
    assert (it.state, arrival.ask().life.incarnation) == (State.PULLING, 2)


def test_an_update_that_is_being_applied_is_waited_for_before_a_life_is_over():
    it = at(State.PUSHING)
    arrival = arrive(it)
    tell(arrival, refuse(Code.EVICTED, "silent", last={"default": LastPush(0, None).to_fields()}))
    assert (it.in_hand, it.life.incarnation, arrival.delay_seconds > 0) == (True, 1, True)
    tell(arrival, refuse(Code.EVICTED, "silent", last={"default": LastPush(0, Disposition.APPLIED).to_fields()}))
    assert (it.outcome.disposition, it.state) == (Disposition.APPLIED, State.JOINING)


@pytest.mark.parametrize(
    ("code", "ending"), [("fenced", Ending.FENCED), ("left", Ending.LEFT), ("finished", Ending.FINISHED)]
)
def test_one_of_a_worker_that_ends_is_asked_no_more(code, ending):
    it = at(State.COMPUTING)
    arrival = arrive(it)
    tell(arrival, refuse(Code(code), "over"))
    assert (it.ending, arrival.ask(), arrival.passed) == (ending, None, False)


@pytest.mark.parametrize("code", [code for code in Code if REACTIONS[code] in (Reaction.TELL, Reaction.SKIP)])
def test_what_is_for_the_user_is_raised_and_it_can_be_asked_again(code):
    arrival = arrive(at(State.PUSHING))
    barrier = arrival.ask()
    with pytest.raises(WireError, match=str(code)):
        tell(arrival, refuse(code, "no"))
    assert arrival.ask() == barrier


def test_it_waits_for_no_update():
    it = at(State.PUSHING)
    arrival = arrive(it)
    tell(arrival, Passed("eval", 2))
    tell(it, pushed(0))
    assert arrival.passed
