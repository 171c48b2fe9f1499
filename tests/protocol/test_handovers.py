"""Handovers between stages: there and back, what cannot be one, and how they read."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.errors import MalformedRequest
from leeway.protocol.fields import Fields, Query
from leeway.protocol.handovers import Call, Direction, Handover, Label, Purpose, Taken
from leeway.protocol.lives import Life
from leeway.protocol.tensors import Kind, TensorSpec
from tests.protocol.drawn_requests import carried, handovers, labels

LIFE = Life("w0", 3, 2)
LABEL = Label(LIFE, 0, 1, 5, Direction.FORWARD, 3)
HANDOVER = Handover(LABEL, Call(Purpose.TRAIN, 4), 8, 32, (("y", "float32"), ("mask", "bool")))
SPECS = (
    TensorSpec("y", (8, 4), "float32", Kind.FLOAT_BUFFER),
    TensorSpec("mask", (8,), "bool", Kind.INTEGER_BUFFER),
)
ROUNDED = (replace(SPECS[0], dtype="bfloat16"), SPECS[1])


def wired(fields):
    return json.loads(json.dumps(fields))


def read(fields=HANDOVER.to_fields(), label=LABEL, specs=SPECS):  # noqa: B008 - it is not changed
    return Handover.read(Fields(wired(fields), "handover"), label, specs)


@given(labels())
def test_a_label_is_text_in_a_query(label):
    query = {name: str(value) for name, value in label.to_fields().items()}
    assert Label.read(Query(query)) == label


@given(handovers())
def test_a_handover(handover):
    assert read(handover.to_fields(), handover.label, carried(handover)) == handover


def test_the_order_of_what_is_handed_is_kept():
    assert [name for name, _ in read(specs=SPECS[::-1]).handed] == ["y", "mask"]


def test_activations_may_be_rounded_for_the_way():
    assert read(specs=ROUNDED) == HANDOVER


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"receiver": 2}, "forward from stage 0 goes to stage 1, not to 2"),
        ({"direction": Direction.BACKWARD}, "backward from stage 0 goes to stage -1, not to 1"),
        ({"direction": Direction.SHARE, "receiver": 0}, "stage 0 cannot hand a share to itself"),
    ],
)
def test_a_label_that_leads_nowhere(change, words):
    with pytest.raises(MalformedRequest, match=words):
        replace(LABEL, **change)


@pytest.mark.parametrize("sender", [0, 2, 7])
def test_a_share_goes_to_whatever_stage_owns_the_key(sender):
    assert Label(LIFE, sender, 1, 5, Direction.SHARE).micro_batch == 0


@pytest.mark.parametrize(
    ("fields", "specs", "words"),
    [
        ({"samples": 33}, SPECS, "'samples' is 33, it must be from 0 to 'total' = 32"),
        ({"samples": -1}, SPECS, "'samples' is -1"),
        ({"purpose": "try"}, SPECS, "'purpose' is 'try', it must be one of train, evaluate, skip, end"),
        ({"micro_batches": 0}, SPECS, "'micro_batches' is 0, it must be an integer from 1 to"),
        ({"total": None}, SPECS, "'total' is missing"),
        ({"handed": "y"}, SPECS, "'handed' is 'y'"),
        ({"handed": ["y", "mask"]}, SPECS, r"'handed' has 'y', which is not \[name, dtype\]"),
        ({"handed": [["y"]]}, SPECS, r"which is not \[name, dtype\]"),
        ({"handed": [[1, "float32"]]}, SPECS, r"which is not \[name, dtype\]"),
        ({"handed": [["y", "float31"]]}, SPECS, "y: dtype 'float31' is not one of float32"),
        ({"handed": [["y", ["float32"]]]}, SPECS, r"y: dtype \['float32'\] is not one of"),
        ({"handed": [["y", "float32"]]}, SPECS, "must name each tensor of the frame once, and no other"),
        ({"handed": [["y", "float32"], ["mask", "bool"], ["y", "float32"]]}, SPECS, "each tensor of the frame once"),
        ({}, SPECS[:1], "must name each tensor of the frame once, and no other"),
        ({"handed": [["y", "float64"], ["mask", "bool"]]}, SPECS, "y is float32 in the frame, where .* as float64"),
        ({"handed": [["y", "int64"], ["mask", "bool"]]}, ROUNDED, "y is bfloat16 in the frame, where .* as int64"),
    ],
)
def test_what_is_refused(fields, specs, words):
    with pytest.raises(MalformedRequest, match=words):
        read(HANDOVER.to_fields() | fields, specs=specs)


def test_shares_are_never_rounded():
    label = replace(LABEL, direction=Direction.SHARE, micro_batch=0)
    assert read(label=label).label == label
    with pytest.raises(MalformedRequest, match="y is bfloat16 in the frame, where 'handed' has it as float32"):
        read(label=label, specs=ROUNDED)


@pytest.mark.parametrize(("field", "value"), [("direction", "sideways"), ("micro_batch", "-1"), ("sender", "x")])
def test_a_refusal_names_the_field_and_the_value(field, value):
    query = {name: str(value) for name, value in LABEL.to_fields().items()}
    with pytest.raises(MalformedRequest, match=f"'{field}' is {value!r}, it must be"):
        Label.read(Query(query | {field: value}))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_comes_is_a_message_or_a_wire_error(data):
    for known, of in (
        (LABEL.to_fields(), lambda fields: Label.read(Fields(fields, "handover"))),
        (HANDOVER.to_fields(), lambda fields: Handover.read(Fields(fields, "handover"), LABEL, SPECS)),
        (Taken.of(LABEL).to_fields(), Taken.read),
    ):
        changed = data.draw(st.dictionaries(st.sampled_from(sorted(known)), anything, max_size=3))
        with suppress(MalformedRequest):
            of(data.draw(st.sampled_from([known | changed, changed])))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (LABEL, "forward w0#2@5 0->1 micro-batch 3"),
        (HANDOVER, "forward w0#2@5 0->1 micro-batch 3, train in 4 micro-batches, 8 of 32 samples: y,mask"),
        (Taken.of(LABEL), "taken forward @5 micro-batch 3"),
        (Taken.of(LABEL, repeated=True), "taken forward @5 micro-batch 3 (repeated)"),
    ],
)
def test_they_read_well(message, words):
    assert str(message) == words


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (Call(Purpose.TRAIN, 1), "train in 1 micro-batch"),
        (Call(Purpose.EVALUATE, 4), "evaluate in 4 micro-batches"),
        (Call(Purpose.SKIP), "skip"),
        (Call(Purpose.END), "end"),
    ],
)
def test_a_call_in_words(call, words):
    assert str(call) == words
