from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import limits
from leeway.protocol.barriers import Passed
from leeway.protocol.codes import Code
from leeway.protocol.handovers import Direction, Taken
from leeway.protocol.membership import Departed, GroupState, Joined, Renewed
from leeway.protocol.offers import Offered
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted, NotYet
from leeway.protocol.pushes import Disposition, LastPush, Pushed, PushPulled, Staged, last_pushes
from leeway.protocol.quarantine import QuarantineState
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused, refuse
from leeway.protocol.tuning import OptimizerState, PolicyState
from leeway.protocol.versions import Version
from tests.protocol.drawn_replies import GRANTED, GROUP, JOINED, LAST, NOT_YET, PUSHED, REPLIES

EXAMPLES = {
    LastPush: LAST,
    GroupState: GROUP,
    Joined: JOINED,
    Granted: GRANTED,
    NotYet: NOT_YET,
    Pushed: PUSHED,
    Staged: Staged(3, (1,)),
    Offered: Offered(("a",), ("b",)),
    Passed: Passed("b", 1),
    Renewed: Renewed(10.0),
    Departed: Departed("w0"),
    PolicyState: PolicyState("default", PolicyTerms("sync"), 3),
    OptimizerState: OptimizerState("default", {"lr": 0.1}),
    QuarantineState: QuarantineState("w0", "mad"),
    Taken: Taken(3, Direction.BACKWARD, 1),
    PushPulled: PushPulled(PUSHED, refuse(Code.FINISHED, "the run is over", clock=3)),
}


def wired(reply) -> object:
    """The fields after their way through JSON."""
    return json.loads(json.dumps(reply.to_fields()))


@pytest.mark.parametrize("kind", REPLIES)
@settings(max_examples=40)
@given(data=st.data())
def test_a_reply_is_read_as_it_was_written(kind, data):
    reply = data.draw(REPLIES[kind])
    of_status = (reply.error.status,) if kind is Refused else ()
    assert reply == kind.read(wired(reply), *of_status)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", EXAMPLES)
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_comes_is_a_reply_or_a_wire_error(kind, data):
    known = EXAMPLES[kind].to_fields()
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(known)), anything, max_size=3), label="changed")
    value = data.draw(st.sampled_from([known | changed, changed]) | anything, label="value")
    with suppress(MalformedRequest):
        assert isinstance(kind.read(value), kind)


def test_many_names_do_not_make_a_reply_long():
    many = tuple(f"w{number}" for number in range(limits.MAX_NAMED_WAITERS + 1))
    assert NotYet.read(wired(NotYet(Reason.LAG, "why", many))).waiting_for == many[:-1]


@pytest.mark.parametrize("pulled", [None, "no", {"detail": "words"}])
def test_a_pull_that_was_refused_in_no_words_of_ours(pulled):
    reply = PushPulled.read({"push": PUSHED.to_fields(), "pulled": "refused", "pull": pulled})
    assert reply.pushed == PUSHED
    assert reply.pulled.error.code is Code.INTERNAL


@pytest.mark.parametrize("value", [None, 7, {}, {"push": PUSHED.to_fields(), "pulled": "perhaps", "pull": {}}])
def test_what_is_no_push_with_its_pull(value):
    with pytest.raises(MalformedRequest, match="push"):
        PushPulled.read(value)


def test_the_last_pushes_of_a_refusal():
    told = refuse(Code.EVICTED, "silent", last={"a": LAST.to_fields(), "b": None})
    assert last_pushes(told.error.facts["last"]) == {"a": LAST}
    for value in (None, [], "x"):
        with pytest.raises(MalformedRequest, match="'last' must be an object"):
            last_pushes(value)
    with pytest.raises(MalformedRequest, match="last push"):
        last_pushes({"a": 7})


def test_a_refusal_carries_the_error_that_the_peer_gets():
    error = refuse(Code.WRONG_CLOCK, "pull that one", clock=3).error
    assert (error.code, error.detail, error.facts) == (Code.WRONG_CLOCK, "pull that one", {"clock": 3})


@pytest.mark.parametrize(
    ("reply", "fields"),
    [
        (Renewed(10.0), {"lease_seconds": 10.0}),
        (Departed("w0"), {"rank": "w0"}),
        (
            PolicyState("default", PolicyTerms("sync"), 3),
            {"group": "default", "mode": "sync", "staleness": None, "switching_at": 3},
        ),
        (OptimizerState("default", {"lr": 0.1}), {"group": "default", "lr": 0.1}),
    ],
)
def test_what_people_read(reply, fields):
    assert wired(reply) == fields


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (LAST, "@3 held"),
        (LastPush(3, None), "@3 pending"),
        (JOINED, "joined #2 default@4"),
        (Joined(1, 2, True, 10.0, 0, 1, {"a": GROUP, "b": GROUP}), "resumed #2 a@4 b@4"),
        (GRANTED, "ok v4 round 3 lag=1"),
        (Granted(Version(1, 4), Reason.READER, unchanged=True), "ok v4 lag=0 unchanged"),
        (NOT_YET, "not yet: w0 leads w1 by 2 > 1"),
        (PUSHED, "applied @3 -> v5 staleness=0"),
        (Pushed(3, Disposition.HELD, Reason.REPEATED), "held @3 (repeated)"),
        (Staged(3, (0, 2)), "staged @3 missing 1,3"),
        (Refused(WireError(Code.BUSY, "why")), "busy: why"),
        (PushPulled(PUSHED, NOT_YET), "applied @3 -> v5 staleness=0; not yet: w0 leads w1 by 2 > 1"),
        (Offered(("a", "b"), ("c",)), "stored=a,b kept=c"),
        (Offered((), (), ("d",)), "wanted=d"),
        (Passed("b", 1), "passed b/1"),
        (Renewed(10.0), "renewed"),
        (Departed("w0"), "w0 has left"),
        (PolicyState("default", PolicyTerms("ssp", 2)), "policy ssp(2)"),
        (OptimizerState("default", {"lr": 0.1}), "optimizer of default set"),
        (PolicyState("default", PolicyTerms("sync"), 3), "policy sync from clock 3"),
    ],
)
def test_replies_read_well(reply, words):
    assert str(reply) == words
