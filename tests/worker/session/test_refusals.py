"""What a conversation makes of each refusal, in each state that asks."""

import random

import pytest

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Join
from leeway.protocol.offers import Offered
from leeway.protocol.pulls import Granted, Pull
from leeway.protocol.pushes import Disposition, LastPush, PushPulled, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.protocol.versions import Version
from leeway.worker.session import backoff
from leeway.worker.session.refusals import REACTIONS, Reaction
from leeway.worker.session.states import Ending, Outcome, State
from tests.worker.session.talking import at, granted, joined, pushed, tell

EVERY_ASKING_STATE = [State.JOINING, State.PULLING, State.PUSHING]


def test_every_code_has_a_reaction():
    assert set(REACTIONS) == set(Code)


@pytest.mark.parametrize("state", EVERY_ASKING_STATE)
@pytest.mark.parametrize("code", [Code.STOPPING, Code.BUSY, Code.INTERNAL, Code.OVER_QUOTA])
def test_an_unavailable_server_is_asked_the_same_again_later(state, code):
    it = at(state)
    request = it.ask()
    tell(it, refuse(code, "later"), retry_after_seconds=2.0)
    assert it.ask() == request
    assert 2.0 <= it.delay_seconds <= 2.0 + 2 * backoff.BASE_SECONDS
    assert it.in_hand is (state is State.PUSHING)


@pytest.mark.parametrize("state", EVERY_ASKING_STATE)
@pytest.mark.parametrize("code", [Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.FOREIGN])
def test_credentials_that_are_refused_are_the_users_to_mend(state, code):
    it = at(state)
    with pytest.raises(WireError, match="no token") as raised:
        tell(it, refuse(code, "no token"))
    assert raised.value.code is code
    assert not it.in_hand


@pytest.mark.parametrize("state", EVERY_ASKING_STATE)
def test_a_rank_that_is_kept_out_has_come_to_its_end(state):
    it = at(state)
    tell(it, refuse(Code.QUARANTINED, "w0 is in quarantine: mad", last={}))
    assert (it.state, it.ending, it.ask()) == (State.ENDED, Ending.QUARANTINED, None)
    assert it.error.detail == "w0 is in quarantine: mad"
    assert it.ending.against_our_wish


def test_an_update_that_is_too_large_becomes_a_skip():
    it = at(State.PUSHING)
    tell(it, refuse(Code.UPDATE_TOO_LARGE, "its norm is 11", refused=1, quarantine_after=3))
    assert it.ask().kind is UpdateKind.SKIP
    tell(it, pushed(0, Disposition.SKIPPED, Reason.SKIPPED))
    assert it.outcome.reason is Code.UPDATE_TOO_LARGE


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
