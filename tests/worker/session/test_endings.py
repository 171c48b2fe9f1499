"""How a conversation ends: a goodbye, the end of the run, leaving in the middle of something."""

import pytest

from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Departed, Leave
from leeway.protocol.pushes import PushPulled, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.worker.session.conversation import LEAVE_ATTEMPTS
from leeway.worker.session.states import Ending, Outcome, State
from tests.worker.session.talking import at, joined, pushed, session, tell


def test_the_last_push_ends_the_run_with_a_goodbye():
    it = at(State.COMPUTING, clock=4, until=5)
    it.computed(UpdateKind.GRADIENT, 1, ("weight",))
    tell(it, PushPulled(pushed(4), refuse(Code.FINISHED, "the run ends at clock 5")))
    assert (it.ending, it.clock, it.ask()) == (Ending.FINISHED, 5, Leave(Life("w0", 7, 1)))
    tell(it, Departed("w0"))
    assert it.state is State.ENDED


@pytest.mark.parametrize("state", [State.PULLING, State.PUSHING])
def test_finished_is_a_good_end(state):
    it = at(state)
    tell(it, refuse(Code.FINISHED, "the run is complete"))
    assert (it.ending, it.error, it.state) == (Ending.FINISHED, None, State.LEAVING)
    assert it.ending_detail == "the run is complete"


def test_a_join_after_the_end_has_nothing_to_do():
    it = session()
    tell(it, joined(clock=5, until=5))
    assert it.ending is Ending.FINISHED
    it = session()
    tell(it, refuse(Code.FINISHED, "the run is complete"))
    assert (it.ending, it.state) == (Ending.FINISHED, State.ENDED)


@pytest.mark.parametrize("code", [Code.OLD_EPOCH, Code.EVICTED, Code.FENCED, Code.LEFT, Code.NOT_JOINED])
def test_a_refused_goodbye_is_one(code):
    it = at(State.LEAVING)
    tell(it, refuse(code, "over"))
    assert (it.state, it.ending) == (State.ENDED, Ending.LEFT)


def test_a_goodbye_is_said_a_few_times_at_most():
    it = at(State.LEAVING)
    for _ in range(LEAVE_ATTEMPTS - 1):
        it.lost()
        assert it.ask() == Leave(Life("w0", 7, 1))
    tell(it, refuse(Code.STOPPING, "later"))
    assert it.state is State.ENDED


def test_leaving_in_the_middle_of_a_push_drops_it():
    it = at(State.PUSHING)
    push = it.ask()
    it.leave()
    assert (it.outcome, it.state) == (Outcome(0, None, Reason.LEFT), State.LEAVING)
    it.answered(push, pushed(0))
    assert it.state is State.LEAVING
    it.leave()
    assert it.state is State.LEAVING


def test_leaving_before_there_is_a_life():
    it = session()
    it.leave()
    assert (it.state, it.ending) == (State.ENDED, Ending.LEFT)
