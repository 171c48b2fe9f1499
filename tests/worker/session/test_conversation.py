"""The session by tables: in this state, on this input, that is sent next and that is told."""

import dataclasses
import random

import pytest

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Departed, GroupState, Join, Joined, Leave
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Disposition, LastPush, Push, Pushed, PushPulled, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.times import StepTimes
from leeway.protocol.versions import Version
from leeway.worker.session import backoff
from leeway.worker.session.conversation import LEAVE_ATTEMPTS, Conversation
from leeway.worker.session.refusals import REACTIONS, Reaction
from leeway.worker.session.shared_life import SharedLife
from leeway.worker.session.states import Ending, Outcome, State

WEIGHT = TensorSpec("weight", (2, 3), "float32", Kind.TRAINABLE)
BIAS = TensorSpec("bias", (2,), "float32", Kind.TRAINABLE)


def joined(*, epoch=7, incarnation=1, resumed=False, clock=0, last=None, specs=(WEIGHT,), until=None, whole=False):
    group = GroupState(clock, "ssp(3)", last, tuple(specs), whole)
    return Joined(epoch, incarnation, resumed, 10.0, 1, 4, {"default": group}, {"eval": 2}, until)


def granted(clock=0, number=5, *, epoch=7, round=None):
    return Granted(Version(epoch, number), Reason.GRANTED, clock=clock, round=round, lag=1, index=2, count=3)


def pushed(clock=0, disposition=Disposition.APPLIED, reason=Reason.ON_ARRIVAL):
    return Pushed(clock, disposition, reason, 6, 0)


def session(wait_seconds=20.0):
    numbers = iter(range(1, 100))
    shared = SharedLife("w0", lambda: f"s{next(numbers)}")
    return Conversation(shared, random=random.Random(1), wait_seconds=wait_seconds)


def tell(session, reply, **more):
    session.answered(session.ask(), reply, **more)


def at(state, *, clock=0, until=None, wait_seconds=20.0):
    """A session that has come to this state the plain way."""
    it = session(wait_seconds)
    if state is State.JOINING:
        return it
    tell(it, joined(clock=clock, until=until))
    if state is State.PULLING:
        return it
    tell(it, granted(clock))
    if state is State.PUSHING:
        it.computed(UpdateKind.GRADIENT, 32, ("weight",), {"loss": 0.5})
    elif state is State.LEAVING:
        it.leave()
    assert it.state is state
    return it


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


# Refusals: what each code leads to, in each state that asks.

EVERY_ASKING_STATE = [State.JOINING, State.PULLING, State.PUSHING]


def test_every_code_has_a_reaction():
    assert set(REACTIONS) == set(Code)


@pytest.mark.parametrize("state", EVERY_ASKING_STATE)
@pytest.mark.parametrize("code", [Code.STOPPING, Code.BUSY, Code.INTERNAL])
def test_an_unavailable_server_is_asked_the_same_again_later(state, code):
    it = at(state)
    request = it.ask()
    tell(it, refuse(code, "later"), retry_after_seconds=2.0)
    assert it.ask() == request
    assert 2.0 <= it.delay_seconds <= 2.0 + 2 * backoff.BASE_SECONDS
    assert it.in_hand is (state is State.PUSHING)


@pytest.mark.parametrize("code", [Code.OLD_EPOCH, Code.NOT_JOINED])
def test_a_pull_of_a_life_that_is_unknown_joins_again_with_the_same_session(code):
    it = at(State.PULLING)
    tell(it, refuse(code, "join again", epoch=8))
    assert it.ask() == Join("w0", "s1", ("default",))
    assert it.delay_seconds > 0
    tell(it, joined(epoch=8, clock=2))
    assert (it.life, it.ask().clock) == (Life("w0", 8, 1), 2)


RESUMED = {
    # what the join says, the outcome (None: pushed again)
    "applied, the reply was lost": (
        {"resumed": True, "clock": 1, "last": LastPush(0, Disposition.APPLIED)},
        Outcome(0, Disposition.APPLIED, Reason.REPEATED),
    ),
    "held in the open round": (
        {"resumed": True, "clock": 1, "last": LastPush(0, Disposition.HELD)},
        Outcome(0, Disposition.HELD, Reason.REPEATED),
    ),
    "accepted, still being applied": ({"resumed": True, "clock": 0, "last": LastPush(0, None)}, None),
    "never heard": ({"resumed": True, "clock": 0}, None),
    "restarted from a state that has it": (
        {"resumed": True, "epoch": 8, "clock": 1, "last": LastPush(0, Disposition.APPLIED)},
        Outcome(0, Disposition.APPLIED, Reason.REPEATED),
    ),
    "restarted from a state where it was being applied": (
        {"resumed": True, "epoch": 8, "clock": 0, "last": LastPush(0, None)},
        None,
    ),
    "restarted from a state before it": (
        {"resumed": True, "epoch": 8, "clock": 0},
        Outcome(0, None, Code.OLD_EPOCH),
    ),
    "restarted with nothing": ({"epoch": 8, "clock": 0}, Outcome(0, None, Code.OLD_EPOCH)),
    "another life": ({"incarnation": 2, "clock": 0}, Outcome(0, None, Code.NOT_JOINED)),
    "another life with a push of its own at that clock": (
        {"incarnation": 2, "resumed": True, "clock": 1, "last": LastPush(0, Disposition.APPLIED)},
        Outcome(0, None, Code.NOT_JOINED),
    ),
    "an equal life that is not ours": ({"clock": 0}, Outcome(0, None, Code.NOT_JOINED)),
    "the clock is elsewhere": ({"resumed": True, "clock": 5}, Outcome(0, None, Code.NOT_JOINED)),
}


@pytest.mark.parametrize("code", [Code.OLD_EPOCH, Code.NOT_JOINED])
@pytest.mark.parametrize("case", RESUMED)
def test_an_update_in_hand_is_resolved_by_the_join(code, case):
    reply, outcome = RESUMED[case]
    it = at(State.PUSHING)
    push = it.ask()
    tell(it, refuse(code, "join again"))
    assert it.ask() == Join("w0", "s1", ("default",))
    assert it.in_hand
    tell(it, joined(**reply))
    assert it.outcome == outcome
    if outcome is None:
        again = it.ask()
        assert again.life == Life("w0", reply.get("epoch", 7), 1)
        assert (again.clock, again.version, again.keys) == (push.clock, push.version, push.keys)
        if "epoch" not in reply:
            assert again == push
    else:
        assert it.ask() == Pull("default", it.life, reply["clock"], since=Version(7, 5), wait_seconds=20.0)


@pytest.mark.parametrize("code", [Code.WRONG_CLOCK, Code.SUPERSEDED, Code.NOT_GRANTED])
def test_out_of_step_drops_the_update_and_takes_the_clock_of_a_join(code):
    it = at(State.PUSHING)
    tell(it, refuse(code, "its clock is 3", clock=3))
    assert it.outcome == Outcome(0, None, code)
    assert it.outcome.dropped
    assert it.ask() == Join("w0", "s1", ("default",))
    tell(it, joined(resumed=True, clock=3, last=LastPush(2, Disposition.APPLIED)))
    assert it.ask().clock == 3


def test_out_of_step_with_a_pull_takes_the_clock_of_a_join():
    it = at(State.PULLING)
    tell(it, refuse(Code.WRONG_CLOCK, "its clock is 3", clock=3))
    tell(it, joined(resumed=True, clock=3))
    assert (it.ask().clock, it.outcome) == (3, None)


def test_being_refused_in_a_circle_is_not_a_busy_loop():
    it = at(State.PULLING)
    it._pace._circle._random = random.Random(4)
    waits = []
    for _ in range(12):
        tell(it, refuse(Code.WRONG_CLOCK, "no"))
        waits.append(it.delay_seconds)
        tell(it, joined(resumed=True))
    assert max(waits[:3]) < max(waits[3:]) <= backoff.CAP_SECONDS


@pytest.mark.parametrize("begun_as", [State.PULLING, State.PUSHING])
def test_an_outage_costs_nothing_once_the_server_is_there_again(begun_as):
    """A restarted server wants a join, an offer and a pull: none of them waits as long as the outage made it wait."""
    it = at(begun_as)
    for _ in range(12):
        it.ask()
        it.lost()
    tell(it, refuse(Code.OLD_EPOCH, "epoch 7 is over", epoch=8))
    assert it.state is State.JOINING
    assert it.delay_seconds <= 2 * backoff.BASE_SECONDS
    tell(it, joined(epoch=8))
    while it.state is State.OFFERING:
        assert it.delay_seconds == 0.0
        tell(it, Offered((), (), ()) if it.ask().ask else Offered(("weight",), ()))
    assert (it.state, it.delay_seconds) == (State.PULLING, 0.0)


def test_a_granted_pull_ends_a_circle_of_refusals():
    it = at(State.PULLING)
    for _ in range(12):
        tell(it, refuse(Code.WRONG_CLOCK, "no"))
        tell(it, joined(resumed=True))
    tell(it, granted())
    it.computed(UpdateKind.GRADIENT, 1)
    tell(it, refuse(Code.WRONG_CLOCK, "no"))
    assert it.delay_seconds <= 2 * backoff.BASE_SECONDS


EVICTED = {
    "not accepted": ({}, Outcome(0, None, Code.EVICTED)),
    "an older one was": (
        {"last": {"default": {"clock": 3, "disposition": "applied"}}},
        Outcome(0, None, Code.EVICTED),
    ),
    "accepted": (
        {"last": {"default": {"clock": 0, "disposition": "applied"}}},
        Outcome(0, Disposition.APPLIED, Reason.REPEATED),
    ),
    "in another group": (
        {"last": {"other": {"clock": 0, "disposition": "applied"}}},
        Outcome(0, None, Code.EVICTED),
    ),
}


@pytest.mark.parametrize("case", EVICTED)
def test_eviction_begins_a_new_life_with_a_new_session(case):
    facts, outcome = EVICTED[case]
    it = at(State.PUSHING)
    tell(it, refuse(Code.EVICTED, "silent for too long", **facts))
    assert it.outcome == outcome
    assert it.life is None
    assert it.ask() == Join("w0", "s2", ("default",))
    tell(it, joined(incarnation=2, clock=9))
    assert (it.life.incarnation, it.ask().clock) == (2, 9)


@pytest.mark.parametrize(("code", "then"), [(Code.EVICTED, Join("w0", "s2", ("default",))), (Code.FENCED, None)])
def test_a_life_that_ended_while_its_update_was_being_applied_asks_until_its_disposition_falls(code, then):
    it = at(State.PUSHING)
    push = it.ask()
    tell(it, refuse(Code.NOT_JOINED, "join"))
    tell(it, refuse(code, "over", last={"default": {"clock": 0, "disposition": None}}))
    assert it.ask() == push
    tell(it, PushPulled(pushed(0, reason=Reason.REPEATED), refuse(code, "over")))
    assert it.outcome == Outcome(0, Disposition.APPLIED, Reason.REPEATED, 6, 0)
    assert it.ask() == then


def test_a_grant_that_does_not_count_the_workers_leaves_the_count():
    it = at(State.PULLING)
    tell(it, Granted(Version(7, 5), Reason.GRANTED, clock=0))
    assert (it.index, it.count) == (1, 4)


@pytest.mark.parametrize("state", [State.JOINING, State.PULLING])
def test_eviction_without_an_update_in_hand(state):
    it = at(state)
    tell(it, refuse(Code.EVICTED, "silent", last={"default": {"clock": 0, "disposition": "applied"}}))
    assert (it.ask().session, it.outcome) == ("s2", None)


@pytest.mark.parametrize("state", EVERY_ASKING_STATE)
@pytest.mark.parametrize(("code", "ending"), [(Code.FENCED, Ending.FENCED), (Code.LEFT, Ending.LEFT)])
def test_a_life_that_somebody_else_ended_is_the_end(state, code, ending):
    it = at(state)
    tell(it, refuse(code, "over"))
    assert (it.state, it.ending, it.error.code, it.ask()) == (State.ENDED, ending, code, None)
    assert it.outcome == (Outcome(0, None, code) if state is State.PUSHING else None)


def test_a_fenced_process_is_told_what_became_of_its_update():
    it = at(State.PUSHING)
    tell(it, refuse(Code.FENCED, "over", last={"default": {"clock": 0, "disposition": "held"}}))
    assert it.outcome == Outcome(0, Disposition.HELD, Reason.REPEATED)
    assert it.state is State.ENDED


def test_non_finite_becomes_a_skip_of_the_same_iteration():
    it = at(State.PUSHING)
    tell(it, refuse(Code.NON_FINITE, "weight has a NaN"))
    push = it.ask()
    assert (push.kind, push.clock, push.version, push.keys) == (UpdateKind.SKIP, 0, 5, ())
    assert (push.samples, push.pull, dict(push.metrics)) == (0, True, {})
    tell(it, PushPulled(pushed(0, Disposition.SKIPPED, Reason.SKIPPED), granted(1)))
    assert it.outcome == Outcome(0, Disposition.SKIPPED, Code.NON_FINITE, 6, 0)


@pytest.mark.parametrize(
    ("facts", "tensor"), [({"tensor": "fc.weight"}, "fc.weight"), ({"tensor": 7}, None), ({}, None)]
)
def test_the_outcome_names_the_tensor_that_was_refused(facts, tensor):
    it = at(State.PUSHING)
    tell(it, refuse(Code.NON_FINITE, "weight has a NaN", **facts))
    tell(it, pushed(0, Disposition.SKIPPED, Reason.SKIPPED))
    assert (it.outcome.reason, it.outcome.clock) == (Code.NON_FINITE, 0)
    assert it.outcome.tensor == tensor
    assert (f": {tensor})" in str(it.outcome)) is (tensor is not None)


def test_the_tensor_is_named_when_the_reply_to_the_skip_was_lost():
    it = at(State.PUSHING)
    tell(it, refuse(Code.NON_FINITE, "weight has a NaN", tensor="weight"))
    it.lost()
    tell(it, refuse(Code.FENCED, "over", last={"default": {"clock": 0, "disposition": "skipped"}}))
    assert it.outcome == Outcome(0, Disposition.SKIPPED, Code.NON_FINITE, tensor="weight")


def test_the_next_update_is_not_named_after_the_last():
    it = at(State.PUSHING)
    tell(it, refuse(Code.NON_FINITE, "weight has a NaN", tensor="weight"))
    tell(it, PushPulled(pushed(0, Disposition.SKIPPED, Reason.SKIPPED), granted(1)))
    it.computed(UpdateKind.GRADIENT, 32)
    tell(it, pushed(1))
    assert it.outcome.tensor is None


USERS = [code for code in Code if REACTIONS[code] is Reaction.TELL]


@pytest.mark.parametrize("code", USERS)
def test_what_is_for_the_user_is_raised_and_the_grant_kept(code):
    it = at(State.PUSHING)
    with pytest.raises(WireError) as raised:
        tell(it, refuse(code, "weight is float32[2,3], not float32[9]"))
    assert raised.value.code is code
    assert it.outcome == Outcome(0, None, code)
    it.computed(UpdateKind.GRADIENT, 1, ("weight",))
    assert it.ask().clock == 0


@pytest.mark.parametrize("state", [State.JOINING, State.PULLING])
def test_what_is_for_the_user_is_raised_and_nothing_changes(state):
    it = at(state)
    with pytest.raises(WireError, match="unknown-group"):
        tell(it, refuse(Code.UNKNOWN_GROUP, "no such group"))
    assert it.state is state


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


# The end.


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


# Offers.


def test_what_the_server_lacks_is_offered_and_what_it_wants_is_sent():
    it = session()
    it.offer([WEIGHT, BIAS])
    tell(it, joined())
    assert it.ask() == Offer((WEIGHT, BIAS), ask=True, group="default")
    tell(it, Offered((), ("weight",), ("bias",)))
    assert it.ask() == Offer((BIAS,), group="default")
    it.lost()
    assert it.ask() == Offer((BIAS,), group="default")
    tell(it, Offered(("bias",), ()))
    assert isinstance(it.ask(), Pull)
    assert set(it.specs) == {WEIGHT, BIAS}


def test_somebody_else_was_faster():
    it = session()
    it.offer([WEIGHT, BIAS])
    tell(it, joined())
    tell(it, Offered((), ("weight", "bias"), ()))
    assert isinstance(it.ask(), Pull)


def test_nothing_is_offered_to_a_server_that_has_it_all():
    it = session()
    it.offer([WEIGHT])
    tell(it, joined())
    assert isinstance(it.ask(), Pull)


@pytest.mark.parametrize("state", [State.PULLING, State.COMPUTING])
def test_an_offer_after_joining(state):
    it = at(state)
    it.offer([BIAS])
    assert it.ask() == Offer((BIAS,), ask=True, group="default")
    assert it.grant is None


def test_a_server_that_has_lost_its_state_is_offered_the_values_again():
    it = session()
    it.offer([WEIGHT])
    tell(it, joined())
    tell(it, granted())
    it.computed(UpdateKind.GRADIENT, 1, ("weight",))
    tell(it, refuse(Code.OLD_EPOCH, "epoch 7 is over", epoch=8))
    tell(it, joined(epoch=8, specs=()))
    assert it.outcome == Outcome(0, None, Code.OLD_EPOCH)
    assert it.ask() == Offer((WEIGHT,), ask=True, group="default")


def test_a_conflicting_schema_is_for_the_user():
    it = session()
    it.offer([TensorSpec("weight", (3, 3), "float32", Kind.TRAINABLE)])
    tell(it, joined())
    with pytest.raises(WireError, match="schema-conflict"):
        tell(it, refuse(Code.SCHEMA_CONFLICT, "weight is float32[2,3]"))


OTHER = TensorSpec("other", (2,), "float32", Kind.TRAINABLE)


@pytest.mark.parametrize(
    ("there", "declared", "asks"),
    [
        (((WEIGHT, BIAS), True), (WEIGHT, BIAS), False),
        (((WEIGHT, BIAS), True), (BIAS, WEIGHT), False),
        # A group that nobody has declared as a whole yet may still grow.
        (((WEIGHT, BIAS), False), (WEIGHT, BIAS), True),
        # A layer fewer, a layer more, another one.
        (((WEIGHT, BIAS), True), (WEIGHT,), True),
        (((WEIGHT,), True), (WEIGHT, BIAS), True),
        (((WEIGHT, BIAS), True), (WEIGHT, OTHER), True),
    ],
)
def test_a_whole_model_is_compared_with_what_the_server_has(there, declared, asks):
    it = session()
    it.offer(declared, whole=True, aliases={"weight": ("twin",)})
    tell(it, joined(specs=there[0], whole=there[1]))
    question = Offer(declared, ask=True, whole=True, group="default", aliases={"weight": ("twin",)})
    assert it.ask() == question if asks else isinstance(it.ask(), Pull)


def test_a_question_that_was_lost_is_asked_anew():
    it = session()
    it.offer((WEIGHT, BIAS), whole=True)
    tell(it, joined(specs=()))
    lost = it.ask()
    it.lost()
    assert it.ask() == lost
    assert it.ask() is not lost
    it.answered(lost, Offered((), (), ("weight", "bias")))
    assert it.ask().ask


def test_a_whole_model_goes_up_with_what_the_question_said():
    it = session()
    it.offer((WEIGHT, BIAS), whole=True, aliases={"weight": ("twin",)})
    tell(it, joined(specs=()))
    tell(it, Offered((), (), ("weight", "bias")))
    aliases = {"weight": ("twin",)}
    assert it.ask() == Offer((WEIGHT, BIAS), whole=True, group="default", aliases=aliases)
    tell(it, Offered(("weight", "bias"), ()))
    assert set(it.specs) == {WEIGHT, BIAS}


def test_another_model_is_for_the_user_and_can_be_exchanged():
    it = session()
    it.offer((WEIGHT,), whole=True)
    tell(it, joined(specs=(WEIGHT, BIAS), whole=True))
    with pytest.raises(WireError, match="schema-conflict"):
        tell(it, refuse(Code.SCHEMA_CONFLICT, "this model lacks 1 key (bias)"))
    it.offer((WEIGHT, BIAS), whole=True)
    assert isinstance(it.ask(), Pull)


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


def test_parameters_that_nobody_has_are_offered_again():
    """Another worker was storing them when this one joined, and the server failed to."""
    session = Conversation(SharedLife("w0", lambda: "s"), random=random.Random(1))
    specs = (TensorSpec("w", (3,), "float32", Kind.TRAINABLE),)
    session.offer(specs)
    life = {"epoch": 1, "incarnation": 1, "resumed": False, "lease_seconds": 9.0, "index": 0, "count": 1}
    session.answered(session.ask(), Joined(groups={"default": GroupState(0, "async", specs=specs)}, **life))
    session.answered(session.ask(), NotYet(Reason.NO_PARAMETERS, "nobody has offered any"))
    assert session.ask() == Offer(specs, ask=True, group="default")
