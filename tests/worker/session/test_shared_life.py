"""Two groups of one worker: what one session learns of the life they share, and what becomes of each one's update."""

import random

import pytest

from leeway.errors import WireError
from leeway.protocol.capacity import DEFAULT_CAPACITY
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Departed, GroupState, Join, Joined, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.pulls import Granted, Pull
from leeway.protocol.pushes import Disposition, LastPush, Push, Pushed, PushPulled, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.versions import Version
from leeway.worker.session.arrival import Arrival
from leeway.worker.session.conversation import Conversation
from leeway.worker.session.shared_life import SharedLife
from leeway.worker.session.states import Ending, Outcome, State

BOTH = ("embedding", "head")
WEIGHT = TensorSpec("weight", (2,), "float32", Kind.TRAINABLE)
APPLIED = LastPush(4, Disposition.APPLIED)


def joined(groups, *, epoch=7, incarnation=1, resumed=False, until=None):
    """`groups`: for each one its clock there, and the last push."""
    states = {name: GroupState(clock, "async", last) for name, (clock, last) in groups.items()}
    return Joined(epoch, incarnation, resumed, 10.0, 0, 1, states, {"eval": 1}, until)


def pair():
    numbers = iter(range(1, 100))
    shared, draw = SharedLife("w0", lambda: f"s{next(numbers)}"), random.Random(1)
    return tuple(Conversation(shared, group=group, random=draw) for group in BOTH)


def tell(session, reply):
    session.answered(session.ask(), reply)


def grant(session, epoch=7):
    tell(session, Granted(Version(epoch, 3), Reason.GRANTED, clock=session.clock))


def live(*, until=None):
    """Both have joined, with clocks of their own."""
    embedding, head = pair()
    tell(embedding, joined({"embedding": (4, None), "head": (9, None)}, until=until))
    return embedding, head


def pushing():
    """Both have an update in hand."""
    sessions = live()
    for session in sessions:
        grant(session)
        session.computed(UpdateKind.GRADIENT, 8, ("weight",))
        assert isinstance(session.ask(), Push)
    return sessions


def last_facts(**groups):
    return {"last": {name: {"clock": clock, "disposition": value} for name, (clock, value) in groups.items()}}


# One life.


def test_one_join_for_both_and_clocks_of_their_own():
    embedding, head = pair()
    join = embedding.ask()
    assert join == Join("w0", "s1", BOTH)
    assert head.ask() is join
    tell(head, joined({"embedding": (4, None), "head": (9, None)}))
    assert embedding.life == head.life == Life("w0", 7, 1)
    assert (embedding.ask(), head.ask()) == (
        Pull("embedding", embedding.life, 4, wait_seconds=20.0),
        Pull("head", head.life, 9, wait_seconds=20.0),
    )
    embedding.answered(join, joined({"embedding": (0, None), "head": (0, None)}, incarnation=2))
    assert embedding.life.incarnation == 1, "answered already"


def test_the_iterations_of_one_do_not_touch_the_other():
    embedding, head = live()
    grant(embedding)
    waiting = head.ask()
    for clock in range(4, 8):
        embedding.computed(UpdateKind.GRADIENT, 8)
        tell(embedding, PushPulled(Pushed(clock, Disposition.APPLIED, Reason.ON_ARRIVAL, clock, 0),
                                   Granted(Version(7, clock), Reason.GRANTED, clock=clock + 1)))  # fmt: skip
    assert (embedding.clock, head.clock) == (8, 9)
    assert head.ask() is waiting


def test_barriers_belong_to_the_life():
    embedding, head = live()
    embedding.shared.barriers["eval"] = 5
    assert head.shared.barriers == {"eval": 5}
    assert (head.shared.lease_seconds, head.shared.limits) == (10.0, DEFAULT_CAPACITY)
    arrival = Arrival(head.shared, "eval", 1, random=random.Random(1))
    assert (arrival.ask().generation, isinstance(embedding.ask(), Pull), isinstance(head.ask(), Pull)) == (
        5,
        True,
        True,
    )


def test_a_join_that_lacks_one_of_the_groups_changes_nothing():
    embedding, head = pair()
    with pytest.raises(WireError, match="not its group 'head'"):
        tell(embedding, joined({"embedding": (4, None)}))
    assert (embedding.state, head.state, head.life) == (State.JOINING, State.JOINING, None)
    assert head.ask() == Join("w0", "s1", BOTH)


def test_a_join_that_one_has_lost_is_a_new_attempt_for_both():
    embedding, head = pair()
    lost = head.ask()
    embedding.ask()
    embedding.lost(lost)
    assert head.ask() == lost
    assert head.ask() is not lost
    newest = head.ask()
    embedding.lost(lost)
    assert head.ask() is newest, "that attempt was over already"
    head.answered(lost, joined({"embedding": (4, None), "head": (9, None)}))
    assert head.state is State.JOINING


# The life goes on, and one of them is out of step.


def test_taking_up_the_same_life_leaves_the_other_as_it_is():
    embedding, head = pushing()
    push = head.ask()
    tell(embedding, refuse(Code.WRONG_CLOCK, "its clock is 6"))
    assert (embedding.outcome, head.in_hand) == (Outcome(4, None, Code.WRONG_CLOCK), True)
    tell(embedding, joined({"embedding": (6, None), "head": (9, None)}, resumed=True))
    assert embedding.ask().clock == 6
    assert head.ask() is push
    tell(head, Pushed(9, Disposition.APPLIED, Reason.ON_ARRIVAL, 4, 0))
    assert head.outcome == Outcome(9, Disposition.APPLIED, Reason.ON_ARRIVAL, 4, 0)


# The life is lost with an update in hand in both: each is settled once.

RESTARTED = {
    # the state that the server has resumed, per group; the outcomes (None: pushed again)
    "from a state that has both": (
        {"embedding": (5, APPLIED), "head": (10, LastPush(9, Disposition.HELD))},
        (Outcome(4, Disposition.APPLIED, Reason.REPEATED), Outcome(9, Disposition.HELD, Reason.REPEATED)),
    ),
    "from a state that has one": (
        {"embedding": (5, APPLIED), "head": (9, None)},
        (Outcome(4, Disposition.APPLIED, Reason.REPEATED), Outcome(9, None, Code.OLD_EPOCH)),
    ),
    "from a state that has neither": (
        {"embedding": (2, None), "head": (9, LastPush(8, Disposition.HELD))},
        (Outcome(4, None, Code.OLD_EPOCH), Outcome(9, None, Code.OLD_EPOCH)),
    ),
    "from a state where one was being applied": (
        {"embedding": (5, APPLIED), "head": (9, LastPush(9, None))},
        (Outcome(4, Disposition.APPLIED, Reason.REPEATED), None),
    ),
}


@pytest.mark.parametrize("case", RESTARTED)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("both_refused", [True, False])
def test_a_restarted_server_tells_both_with_one_join(case, first, both_refused):
    groups, outcomes = RESTARTED[case]
    sessions = pushing()
    pushes = [session.ask() for session in sessions]
    for session in sessions if both_refused else (sessions[first],):
        tell(session, refuse(Code.OLD_EPOCH, "epoch 7 is over", epoch=8))
    tell(sessions[first], joined(groups, epoch=8, resumed=True))
    for session, push, outcome in zip(sessions, pushes, outcomes, strict=True):
        assert (session.life, session.outcome) == (Life("w0", 8, 1), outcome)
        # What comes now, of the life before, is told to nobody.
        session.answered(push, Pushed(push.clock, Disposition.SKIPPED, Reason.SKIPPED))
        session.answered(push, refuse(Code.OLD_EPOCH, "epoch 7 is over", epoch=8))
        session.lost(push)
        assert (session.outcome, session.delay_seconds) == (outcome, 0.0)
        again = session.ask()
        if outcome is None:
            assert (again.life.epoch, again.clock, again.keys) == (8, push.clock, push.keys)
        else:
            assert (type(again), again.life, again.clock) == (Pull, session.life, groups[session.group][0])


@pytest.mark.parametrize("code", [Code.OLD_EPOCH, Code.NOT_JOINED])
def test_what_the_other_was_computing_has_lapsed(code):
    embedding, head = live()
    grant(embedding)
    grant(head)
    embedding.computed(UpdateKind.GRADIENT, 8)
    tell(embedding, refuse(code, "join again"))
    groups = {"embedding": (4, None), "head": (9, None)}
    tell(embedding, joined(groups, epoch=8 if code is Code.OLD_EPOCH else 7))
    assert (head.state, head.grant) == (State.PULLING, None)
    head.computed(UpdateKind.GRADIENT, 8)
    assert (head.outcome, head.in_hand) == (Outcome(9, None, code), False)
    grant(head, epoch=8)
    assert head.state is State.COMPUTING


EVICTED = {
    "both accepted": (
        {"embedding": (4, "applied"), "head": (9, "held")},
        (Outcome(4, Disposition.APPLIED, Reason.REPEATED), Outcome(9, Disposition.HELD, Reason.REPEATED)),
    ),
    "one accepted": (
        {"embedding": (3, "applied"), "head": (9, "held")},
        (Outcome(4, None, Code.EVICTED), Outcome(9, Disposition.HELD, Reason.REPEATED)),
    ),
    "none": ({}, (Outcome(4, None, Code.EVICTED), Outcome(9, None, Code.EVICTED))),
}


@pytest.mark.parametrize("case", EVICTED)
@pytest.mark.parametrize("first", [0, 1])
def test_eviction_is_one_new_life_for_both(case, first):
    last, outcomes = EVICTED[case]
    sessions = pushing()
    late = sessions[1 - first]
    push = late.ask()
    tell(sessions[first], refuse(Code.EVICTED, "silent", **last_facts(**last)))
    assert tuple(session.outcome for session in sessions) == outcomes
    join = sessions[first].ask()
    assert join == Join("w0", "s2", BOTH)
    # The other one's own refusal is of a life that is no more: no third life is begun.
    late.answered(push, refuse(Code.EVICTED, "silent", **last_facts(**last)))
    late.answered(push, refuse(Code.FENCED, "replaced"))
    assert late.ask() is join
    tell(late, joined({"embedding": (5, None), "head": (11, None)}, incarnation=2))
    assert [(session.life.incarnation, session.ask().clock) for session in sessions] == [(2, 5), (2, 11)]


def test_eviction_while_the_other_computes():
    embedding, head = live()
    grant(head)
    tell(embedding, refuse(Code.EVICTED, "silent"))
    assert head.state is State.JOINING
    head.computed(UpdateKind.GRADIENT, 8)
    assert head.outcome == Outcome(9, None, Code.EVICTED)


@pytest.mark.parametrize("code", [Code.EVICTED, Code.FENCED])
def test_a_life_is_not_given_up_while_an_update_of_either_is_being_applied(code):
    embedding, head = pushing()
    push = embedding.ask()
    tell(embedding, refuse(code, "over", **last_facts(embedding=(4, "applied"), head=(9, None))))
    assert (embedding.in_hand, head.in_hand) == (True, True), "nothing is settled yet"
    assert embedding.ask() == push
    assert embedding.delay_seconds > 0
    tell(embedding, refuse(code, "over", **last_facts(embedding=(4, "applied"), head=(9, "applied"))))
    assert embedding.outcome == Outcome(4, Disposition.APPLIED, Reason.REPEATED)
    assert head.outcome == Outcome(9, Disposition.APPLIED, Reason.REPEATED)
    assert head.ask() == (Join("w0", "s2", BOTH) if code is Code.EVICTED else None)


# The end.


@pytest.mark.parametrize(("code", "ending"), [(Code.FENCED, Ending.FENCED), (Code.LEFT, Ending.LEFT)])
def test_a_life_that_somebody_else_ended_is_the_end_of_both(code, ending):
    embedding, head = pushing()
    tell(head, refuse(code, "over", **last_facts(embedding=(4, "applied"))))
    assert embedding.outcome == Outcome(4, Disposition.APPLIED, Reason.REPEATED)
    assert head.outcome == Outcome(9, None, code)
    for session in (embedding, head):
        assert (session.state, session.ending, session.error.code) == (State.ENDED, ending, code)


@pytest.mark.parametrize("code", [Code.FENCED, Code.LEFT])
def test_what_was_computed_when_the_life_ended_is_dropped(code):
    embedding, head = live()
    grant(head)
    tell(embedding, refuse(code, "over"))
    head.computed(UpdateKind.GRADIENT, 8)
    assert (head.state, head.outcome) == (State.ENDED, Outcome(9, None, code))


def test_what_was_computed_when_the_run_ended_is_dropped():
    embedding, head = live()
    grant(head)
    tell(embedding, refuse(Code.NOT_JOINED, "join"))
    tell(embedding, refuse(Code.FINISHED, "the run is complete"))
    head.computed(UpdateKind.GRADIENT, 8)
    assert (head.ending, head.outcome) == (Ending.FINISHED, Outcome(9, None, Code.FINISHED))


def test_the_one_that_is_finished_ends_and_the_last_one_leaves():
    embedding, head = live(until=10)
    grant(head)
    head.computed(UpdateKind.GRADIENT, 8)
    tell(head, Pushed(9, Disposition.APPLIED, Reason.ON_ARRIVAL, 4, 0))
    assert (head.state, head.ending, head.ask()) == (State.ENDED, Ending.FINISHED, None)
    assert isinstance(embedding.ask(), Pull)
    # A life that is begun anew is without the group in which nothing is to be done.
    tell(embedding, refuse(Code.EVICTED, "silent for 10 s"))
    assert embedding.ask() == Join("w0", "s2", ("embedding",), revision=1)
    tell(embedding, joined({"embedding": (9, None)}, incarnation=2, until=10))
    grant(embedding)
    embedding.computed(UpdateKind.GRADIENT, 8)
    tell(embedding, PushPulled(Pushed(9, Disposition.APPLIED, Reason.ON_ARRIVAL), refuse(Code.FINISHED, "complete")))
    assert (embedding.ending, embedding.ask()) == (Ending.FINISHED, Leave(embedding.life))
    tell(embedding, Departed("w0"))
    assert embedding.state is State.ENDED


@pytest.mark.parametrize(("clock", "goes_on"), [(8, True), (10, False)])
def test_a_server_that_has_gone_back_is_asked_whether_what_was_finished_still_is(clock, goes_on):
    embedding, head = live(until=10)
    grant(head)
    head.computed(UpdateKind.GRADIENT, 8)
    tell(head, Pushed(9, Disposition.APPLIED, Reason.ON_ARRIVAL, 4, 0))
    assert head.ending is Ending.FINISHED
    tell(embedding, refuse(Code.OLD_EPOCH, "epoch 7 is over", epoch=8))
    assert embedding.ask() == Join("w0", "s1", ("embedding",), revision=1)
    tell(embedding, joined({"embedding": (2, None)}, epoch=8, resumed=True, until=10))
    assert isinstance(embedding.ask(), Pull)
    # What its loop has computed meanwhile is of the epoch before.
    assert (head.ending, head.state) == (None, State.JOINING)
    head.computed(UpdateKind.GRADIENT, 8)
    assert head.outcome == Outcome(10, None, Code.OLD_EPOCH)
    assert head.ask() == Join("w0", "s1", BOTH, revision=2)
    tell(head, joined({"embedding": (2, None), "head": (clock, None)}, epoch=8, resumed=True, until=10))
    assert (head.ending is None, isinstance(head.ask(), Pull)) == (goes_on, goes_on)
    assert isinstance(embedding.ask(), Pull)


def test_a_join_under_way_while_the_other_finishes_is_asked_anew_without_its_group():
    embedding, head = live()
    tell(embedding, refuse(Code.NOT_JOINED, "join"))
    join = embedding.ask()
    tell(head, refuse(Code.FINISHED, "the run is complete"))
    embedding.answered(join, joined({"embedding": (4, None), "head": (2, None)}, incarnation=2))
    assert embedding.ask() == Join("w0", "s1", ("embedding",), revision=1)


def test_a_join_after_the_end_ends_both():
    embedding, head = pair()
    tell(embedding, refuse(Code.FINISHED, "the run is complete"))
    assert (embedding.state, head.state, head.ending) == (State.ENDED, State.ENDED, Ending.FINISHED)


@pytest.mark.parametrize("leaver", [0, 1])
def test_leaving_is_for_both_and_said_once(leaver):
    sessions = pushing()
    sessions[leaver].leave()
    assert [session.outcome.reason for session in sessions] == [Reason.LEFT, Reason.LEFT]
    assert sessions[1 - leaver].state is State.ENDED
    assert sessions[leaver].ask() == Leave(Life("w0", 7, 1))
    sessions[1 - leaver].leave()
    assert sessions[leaver].state is State.LEAVING


def test_one_that_is_finished_leaves_for_the_other():
    embedding, head = live(until=9)
    assert head.ending is Ending.FINISHED
    head.leave()
    assert (embedding.ending, embedding.ask(), head.ending) == (Ending.LEFT, Leave(embedding.life), Ending.FINISHED)


def test_a_part_that_a_server_has_lost_in_a_crash_is_made_again():
    embedding, head = pair()
    embedding.shared.create = ("embedding",)
    for session in (embedding, head):
        session.offer((WEIGHT,))
    tell(embedding, joined({"embedding": (0, None), "head": (0, None)}))
    unknown = refuse(Code.UNKNOWN_GROUP, "there is no such group")
    tell(embedding, unknown)
    assert embedding.ask().create == ("embedding",)
    tell(embedding, joined({"embedding": (0, None), "head": (0, None)}, epoch=8))
    assert isinstance(embedding.ask(), Offer)
    # Of a group that the worker does not make, and of a server that makes none, the user is told.
    for session in (head, embedding):
        with pytest.raises(WireError, match="no such group"):
            tell(session, unknown)
        embedding.rejoin(Code.NOT_JOINED)
