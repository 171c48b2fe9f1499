from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import limits
from leeway.protocol.codes import Code
from leeway.protocol.fields import MAX_INTEGER
from leeway.protocol.ranks import is_rank
from leeway.protocol.reasons import Reason
from leeway.protocol.replies import (
    Departed,
    Disposition,
    Granted,
    GroupState,
    Joined,
    LastPush,
    NotYet,
    Offered,
    Passed,
    PolicyState,
    Pushed,
    PushPulled,
    Refused,
    Renewed,
    Staged,
    last_pushes,
    refuse,
)
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.versions import Version

W = TensorSpec("w", (3,), "float32", Kind.TRAINABLE)
GRANTED = Granted(Version(1, 4), Reason.GRANTED, clock=3, round=3, lag=1, index=0, count=2)
NOT_YET = NotYet(Reason.LAG, "w0 leads w1 by 2 > 1", ("w1",))
PUSHED = Pushed(3, Disposition.APPLIED, Reason.ON_ARRIVAL, 5, 0)
LAST = LastPush(3, Disposition.HELD)
GROUP = GroupState(4, "ssp", LAST, (W,), whole=True)
JOINED = Joined(1, 2, False, 10.0, 0, 2, {"default": GROUP}, {"b": 1}, until=9)

counts = st.integers(0, MAX_INTEGER)
maybe_counts = st.none() | counts
ranks = st.text("aw.-_09", min_size=1, max_size=64).filter(is_rank)
reasons = st.sampled_from(Reason)
dispositions = st.sampled_from(Disposition)
last = st.builds(LastPush, counts, st.none() | dispositions)
groups = st.builds(
    GroupState, counts, st.text(min_size=1, max_size=64), st.none() | last, st.lists(st.just(W), max_size=2).map(tuple)
)
names = st.lists(st.text(), max_size=3).map(tuple)

REPLIES = {
    LastPush: last,
    GroupState: groups,
    Joined: st.builds(
        Joined,
        epoch=counts,
        incarnation=st.integers(1, MAX_INTEGER),
        resumed=st.booleans(),
        lease_seconds=st.floats(0, 1e9),
        index=counts,
        count=st.integers(1, MAX_INTEGER),
        groups=st.dictionaries(ranks, groups, max_size=2),
        barriers=st.dictionaries(ranks, counts, max_size=2),
        until=st.none() | st.integers(1, MAX_INTEGER),
    ),
    Granted: st.builds(
        Granted,
        st.builds(Version, counts, counts),
        reasons,
        clock=maybe_counts,
        round=maybe_counts,
        lag=counts,
        index=counts,
        count=counts,
        unchanged=st.booleans(),
    ),
    NotYet: st.builds(NotYet, reasons, st.text(min_size=1, max_size=99), st.lists(ranks, max_size=3).map(tuple)),
    Pushed: st.builds(Pushed, counts, dispositions, reasons, maybe_counts, maybe_counts),
    Staged: st.builds(Staged, counts, st.lists(st.integers(0, limits.MAX_PARTS), max_size=4).map(tuple)),
    Offered: st.builds(Offered, names, names, names),
    Passed: st.builds(Passed, ranks, counts),
}
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
}


def wired(reply) -> object:
    """The fields after their way through JSON."""
    return json.loads(json.dumps(reply.to_fields()))


@pytest.mark.parametrize("kind", REPLIES)
@settings(max_examples=40)
@given(data=st.data())
def test_a_reply_is_read_as_it_was_written(kind, data):
    reply = data.draw(REPLIES[kind])
    assert kind.read(wired(reply)) == reply


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("kind", REPLIES)
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
            PolicyState("default", "sync", None, 3),
            {"group": "default", "mode": "sync", "staleness": None, "switching_at": 3},
        ),
    ],
)
def test_what_only_people_read(reply, fields):
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
        (PolicyState("default", "ssp", 2), "policy ssp(2)"),
        (PolicyState("default", "sync", None, 3), "policy sync from clock 3"),
    ],
)
def test_replies_read_well(reply, words):
    assert str(reply) == words
