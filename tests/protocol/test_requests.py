from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.errors import MalformedRequest
from leeway.protocol import limits
from leeway.protocol.barriers import Barrier
from leeway.protocol.fields import Fields, Query
from leeway.protocol.lives import Life
from leeway.protocol.membership import Heartbeat, Join, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.times import StepTimes
from leeway.protocol.tuning import SetOptimizer, SetPolicy
from leeway.protocol.versions import Version
from tests.protocol.drawn_requests import barriers, joins, lives, policies, pulls, pushes, readers_pulls

LIFE = Life("w0", 3, 2)
PUSH = Push(LIFE, 5, 7, UpdateKind.GRADIENT, 4)
W = TensorSpec("w", (3,), "float32", Kind.TRAINABLE)
OFFER = Offer((W,), ask=True, whole=True, group="a", aliases={"w": ("v", "u")})


def wired(message) -> Fields:
    """The fields after their way through JSON."""
    return Fields(json.loads(json.dumps(message.to_fields())), "message")


# There and back.


@given(lives)
def test_leave_heartbeat_and_life(life):
    assert Life.read(wired(life)) == life
    assert Leave.read(wired(Leave(life))) == Leave(life)
    assert Heartbeat.read(wired(Heartbeat(life))) == Heartbeat(life)


@given(joins)
def test_join(join):
    assert Join.read(wired(join), join.wait_seconds) == join


@given(pulls)
def test_the_pull_of_a_worker(pull):
    assert Pull.read(wired(pull), pull.wait_seconds) == pull


@given(readers_pulls)
def test_the_pull_of_a_reader(pull):
    assert Pull.read(wired(pull), None) == pull


def test_a_pull_that_says_nothing_is_a_readers_of_the_default_group():
    assert Pull.read(Fields({}, "pull"), None) == Pull()


def test_a_query_string_carries_numbers_as_text():
    query = {key: str(value) for key, value in Pull(life=LIFE, clock=4, min_version=2).to_fields().items()}
    assert Pull.read(Query(query), 1.0) == Pull(life=LIFE, clock=4, min_version=2, wait_seconds=1.0)


@given(pushes())
def test_push(push):
    read = Push.read(wired(push), push.keys, pull=push.pull, since=push.since, wait_seconds=push.wait_seconds)
    assert read == push
    assert (read.metrics, read.times) == (push.metrics, push.times)


def test_a_push_re_sent_is_byte_identical_whether_or_not_it_asks_for_parameters():
    asking = replace(PUSH, pull=True, since=Version(1, 2), wait_seconds=9.0)
    assert asking.to_fields() == PUSH.to_fields()


@given(barriers)
def test_barrier(barrier):
    assert Barrier.read(wired(barrier), barrier.name, barrier.wait_seconds) == barrier


def test_a_barrier_without_parties_is_for_one():
    fields = LIFE.to_fields() | {"generation": 0}
    assert Barrier.read(Fields(fields, "barrier"), "b", None).parties == 1


@given(policies)
def test_set_policy(policy):
    assert SetPolicy.read(wired(policy), policy.group) == policy


# What is refused.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"part": 2, "parts": 2}, "'part' is 2, it must be below 'parts' = 2"),
        ({"samples": 0}, "an iteration without samples is a skip"),
        ({"kind": UpdateKind.SKIP}, "a skip carries no tensors, no samples"),
        ({"kind": UpdateKind.SKIP, "samples": 0, "keys": ("w",)}, "a skip carries no tensors, no samples"),
        ({"kind": UpdateKind.SKIP, "samples": 0, "parts": 2}, "a skip carries no tensors, no samples"),
        (
            {"kind": UpdateKind.SKIP, "samples": 0, "values": ("w",)},
            "'values' names 'w', which is not among its tensors",
        ),
        ({"keys": ("v",), "values": ("v", "w")}, "'values' names 'w', which is not among its tensors"),
    ],
)
def test_a_push_that_contradicts_itself(change, words):
    with pytest.raises(MalformedRequest, match=words):
        replace(PUSH, **change)


@pytest.mark.parametrize("values", ["w", [1], [["w"]], {"w": 1}, ["w", None]])
def test_values_are_a_list_of_names(values):
    with pytest.raises(MalformedRequest, match="'values'"):
        Push.read(Fields(PUSH.to_fields() | {"values": values}, "push"), ("w",))


@pytest.mark.parametrize("metric", [True, "0.5", None, [1], 10**400])
def test_a_metric_is_a_number(metric):
    with pytest.raises(MalformedRequest, match="metric 'loss' must be a number"):
        Push.read(Fields(PUSH.to_fields() | {"metrics": {"loss": metric}}, "push"), ())


def test_a_loss_that_has_diverged_may_be_reported():
    read = Push.read(Fields(PUSH.to_fields() | {"metrics": {"loss": math.nan, "step": 3}}, "push"), ())
    assert math.isnan(read.metrics["loss"])
    assert read.metrics["step"] == 3.0


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([1.0], "push: 'times' is .* it must be an object of at most 16 members"),
        ({str(number): 0.0 for number in range(17)}, "an object of at most 16 members"),
        ({"clock": 4}, "push: times: 'compute' is missing"),
        (StepTimes(4, push_seconds=math.inf).to_fields(), "push: times: 'push' is inf, it must be a number from 0.0"),
    ],
)
def test_the_times_of_the_iteration_before(times, words):
    with pytest.raises(MalformedRequest, match=words):
        Push.read(Fields(PUSH.to_fields() | {"times": times}, "push"), ())


def test_what_is_told_beside_an_update_makes_no_other_update():
    assert replace(PUSH, times=StepTimes(4, 1.0), metrics={"loss": 1.0}) == PUSH


@pytest.mark.parametrize("groups", [[], [1], ["a", None], "a", ["g"] * (limits.MAX_GROUPS + 1)])
def test_the_groups_of_a_join(groups):
    with pytest.raises(MalformedRequest, match="groups"):
        Join.read(Fields({"rank": "w0", "session": "s", "groups": groups}, "join"))


@pytest.mark.parametrize("create", ["g", [1], ["g", None], ["h"], [".."], ["a b"], ["g"] * (limits.MAX_GROUPS + 1)])
def test_the_groups_that_a_join_makes_are_groups_that_it_names(create):
    fields = {"rank": "w0", "session": "s", "groups": ["g", "..", "a b"], "create": create}
    with pytest.raises(MalformedRequest, match="'create'"):
        Join.read(Fields(fields, "join"))


@pytest.mark.parametrize(
    "join", [Join("w0", "s"), Join("w0", "s", ("g", "h"), ("h",), one_after_another=True, revision=3)]
)
def test_a_join_is_read_as_it_was_sent(join):
    assert Join.read(Fields(json.loads(json.dumps(join.to_fields())), "join")) == join


@pytest.mark.parametrize(
    ("field", "value"),
    [("rank", "a b"), ("epoch", -1), ("incarnation", 0), ("clock", "x"), ("kind", "weights"), ("parts", 1025)],
)
def test_a_refusal_names_the_field_and_the_value(field, value):
    with pytest.raises(MalformedRequest, match=f"'{field}' is {value!r}, it must be"):
        Push.read(Fields(PUSH.to_fields() | {field: value}, "push"), ())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
readers = {
    "life": (LIFE, Life.read),
    "join": (Join("w0", "s", ("g",), ("g",), one_after_another=True), Join.read),
    "leave": (Leave(LIFE), Leave.read),
    "heartbeat": (Heartbeat(LIFE), Heartbeat.read),
    "pull": (Pull(life=LIFE, min_version=2, since=Version(1, 2)), lambda fields: Pull.read(fields, None)),
    "push": (
        replace(PUSH, round=1, keys=("w",), values=("w",), metrics={"loss": 1.0}, times=StepTimes(4, 1.0)),
        lambda fields: Push.read(fields, ("w",)),
    ),
    "barrier": (Barrier(LIFE, "b", 0), lambda fields: Barrier.read(fields, "b", None)),
    "offer": (OFFER, lambda fields: Offer.read(fields, OFFER.specs, ask=True)),
    "policy": (SetPolicy(PolicyTerms("ssp", 1)), lambda fields: SetPolicy.read(fields, "default")),
}


@pytest.mark.parametrize("name", readers)
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_comes_is_a_message_or_a_wire_error(name, data):
    message, read = readers[name]
    known = message.to_fields()
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(known)), anything, max_size=3), label="changed")
    mapping = data.draw(st.sampled_from([known | changed, changed]), label="mapping")
    with suppress(MalformedRequest):
        assert isinstance(read(Fields(mapping, name)), type(message))


# Offers.


@pytest.mark.parametrize(
    "offer", [OFFER, Offer((W,)), replace(OFFER, ask=False, aliases={}), replace(OFFER, spread=True, holds="7.4")]
)
def test_an_offer_is_read_as_it_was_sent(offer):
    assert Offer.read(Fields(json.loads(json.dumps(offer.to_fields())), "offer"), (W,), ask=offer.ask) == offer


def test_an_offer_says_nothing_that_it_need_not():
    assert Offer((W,)).to_fields() == {}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"whole": "perhaps"}, "'whole'"),
        ({"group": "no group"}, "'group'"),
        ({"aliases": ["w"]}, "'aliases'"),
        ({"aliases": {"b": ["c"]}}, "'b', which is no tensor of this offer"),
        ({"aliases": {"w": "c"}}, "'w' must be a list of names"),
        ({"aliases": {"w": [1]}}, "'w' must be a list of names"),
        ({"aliases": {"w": ["w"]}}, "an alias of 'w' is a tensor of this offer too"),
    ],
)
def test_what_an_offer_cannot_say(fields, words):
    with pytest.raises(MalformedRequest) as raised:
        Offer.read(Fields(fields, "offer"), (W,), ask=False)
    assert words in raised.value.detail


# How they read.


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (LIFE, "w0#2"),
        (Join("w0", "s"), "join w0 session=s"),
        (Join("w0", "s", ("G", "D"), ("G", "D")), "join w0 session=s create=G,D"),
        (Leave(LIFE), "leave w0#2"),
        (Heartbeat(LIFE), "heartbeat w0#2"),
        (Offer((W,)), "offer w"),
        (Offer((W, replace(W, name="b")), ask=True), "ask w,b"),
        (OFFER, "ask whole w"),
        (Offer((W,), from_file=True), "init w"),
        (Pull(), "pull reader"),
        (Pull(life=LIFE, clock=4, min_version=9), "pull w0#2@4 min_version=9"),
        (PUSH, "push w0#2@5 gradient v7"),
        (replace(PUSH, pull=True, part=1, parts=3), "pushpull w0#2@5 gradient v7 part 2/3"),
        (Barrier(LIFE, "b", 1), "barrier b/1 w0#2"),
        (SetPolicy(PolicyTerms("sync")), "policy sync"),
        (SetPolicy(PolicyTerms("ssp", 2)), "policy ssp(2)"),
        (SetOptimizer("a", {"lr": 0.1, "momentum": 0.9}), "optimizer of a: lr 0.1, momentum 0.9"),
    ],
)
def test_messages_read_well(message, words):
    assert str(message) == words
