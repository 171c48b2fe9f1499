from __future__ import annotations

import math
from enum import StrEnum

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leeway.errors import MalformedFrame, WireError
from leeway.protocol import metadata
from leeway.protocol.codes import Code
from leeway.protocol.limits import MAX_CONTAINER_ITEMS, MAX_METADATA_BYTES, MAX_METADATA_DEPTH, MAX_METADATA_VALUES
from leeway.protocol.metadata import pack, unpack
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec

WEIGHT = TensorSpec("fc.weight", (2, 3), "float32", Kind.TRAINABLE)
BIAS = TensorSpec("fc.bias", (2,), "float32", Kind.TRAINABLE)
LAYOUT = Layout.of([WEIGHT, BIAS])
WEIGHT_ROW = ["fc.weight", "float32", "trainable", [2, 3], 0]
BIAS_ROW = ["fc.bias", "float32", "trainable", [2], 64]

scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text())
keys = st.text().filter(lambda key: key != "tensors")
plain = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
messages = st.dictionaries(keys, plain, max_size=6)


def read(packed, body_bytes=0):
    return unpack(memoryview(packed), body_bytes)


def nested(depth):
    """`depth` lists in one another."""
    return [nested(depth - 1)] if depth > 1 else []


@given(messages)
def test_a_message_comes_back(message):
    assert read(pack(message, None)) == (message, ())


@given(messages)
def test_a_message_comes_back_beside_a_table(message):
    read_message, places = read(pack(message, LAYOUT), LAYOUT.nbytes)
    assert read_message == message
    assert places == tuple(LAYOUT.places.values())


def test_pack_writes_the_message_in_its_order_and_the_table_last():
    unpacked = msgpack.unpackb(pack({"b": 1, "a": 2}, LAYOUT))
    assert list(unpacked.items()) == [("b", 1), ("a", 2), ("tensors", [WEIGHT_ROW, BIAS_ROW])]


def test_pack_leaves_the_message_alone():
    message = {"a": 1}
    pack(message, LAYOUT)
    assert message == {"a": 1}


def test_an_empty_layout_gives_an_empty_table():
    assert msgpack.unpackb(pack({}, Layout.of([]))) == {"tensors": []}


def test_enums_of_text_and_tuples_are_plain_enough():
    class Colour(StrEnum):
        RED = "red"

    assert read(pack({"c": Colour.RED, "t": (1, 2), "f": np.float64(0.5)}, None)) == (
        {"c": "red", "t": [1, 2], "f": 0.5},
        (),
    )


def test_not_a_number_is_a_number():
    message, _ = read(pack({"loss": math.nan}, None))
    assert math.isnan(message["loss"])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"tensors": []}, "the key 'tensors' is the tensor table's"),
        ({"a": b"x"}, "a bytes is not plain data: b'x'"),
        ({"a": [np.int64(1)]}, "a int64 is not plain data"),
        ({"a": {1: 2}}, "key 1 is not text"),
        ({1: 2}, "key 1 is not text"),
        ({"a": 2**64}, "an integer does not fit into 64 bits"),
        ({"a": -(2**63) - 1}, "an integer does not fit into 64 bits"),
        ({"a": "\ud800"}, "surrogates not allowed"),
        ({"a": nested(MAX_METADATA_DEPTH)}, f"nested more than {MAX_METADATA_DEPTH} deep"),
        ({"a": [0] * (MAX_CONTAINER_ITEMS + 1)}, f"{MAX_CONTAINER_ITEMS + 1} items in one list or map"),
        ({"a": "x" * MAX_METADATA_BYTES}, f"bytes of metadata; the limit is {MAX_METADATA_BYTES}"),
        ({"a": [[0] * MAX_CONTAINER_ITEMS] * 16}, f"more than {MAX_METADATA_VALUES} values"),
    ],
    ids=str,
)
def test_what_cannot_be_packed(message, words):
    with pytest.raises(ValueError, match=words):
        pack(message, None)


def test_the_deepest_and_the_longest_that_pass():
    message = {"deep": nested(MAX_METADATA_DEPTH - 1), "long": [0] * MAX_CONTAINER_ITEMS}
    assert read(pack(message, None)) == (message, ())


@pytest.mark.parametrize(
    ("packed", "detail"),
    [
        (b"", "metadata is not valid msgpack: Unpack failed: incomplete input"),
        (b"\xc1", "metadata is not valid msgpack: (FormatError|.*0xc1)"),
        (b"\x80\x80", "metadata is not valid msgpack: unpack.b. received extra data"),
        (b"\x81\xa1\xff\x01", "metadata is not valid msgpack: 'utf-8' codec can't decode"),
        (b"\x81\xa1a" + b"\x91" * 5000 + b"\xc0", "metadata is not valid msgpack: "),
        (b"\x82\xa1a\x01\xa1a\x02", "metadata is not valid msgpack: a map has the same key twice"),
        (b"\x81\xa1a\xc7\x00\x05", "metadata is not valid msgpack: extension type 5 is not plain data"),
        (b"\x81\xa1a\xd4\x05\x00", "metadata is not valid msgpack: .* exceeds max_ext_len"),
        (b"\x81\xa1a\xd6\xff\x00\x00\x00\x01", "metadata is not valid msgpack: .* exceeds max_ext_len"),
        (b"\x81\xa1a\xc4\x01a", "metadata is not valid msgpack: 1 exceeds max_bin_len"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "metadata is not valid msgpack: 4294967295 exceeds max_array"),
        (b"\x81\xa1a\xdf\xff\xff\xff\xff", "metadata is not valid msgpack: 4294967295 exceeds max_map"),
        (b"\x81\x01\x02", "metadata is not valid msgpack: .*int.* is not allowed for map key"),
        (b"\x90", r"metadata is not a map but \[\]"),
        (b"\x01", "metadata is not a map but 1"),
        (b"\x81\xa1a\xc4\x00", "metadata: a bytes is not plain data: b''"),
        (b"\x81\xc4\x00\x01", "metadata: key b'' is not text"),
        (
            msgpack.packb({"a": nested(MAX_METADATA_DEPTH)}),
            f"metadata: nested more than {MAX_METADATA_DEPTH}",
        ),
    ],
)
def test_what_is_no_metadata(packed, detail):
    with pytest.raises(MalformedFrame, match=f"^malformed-frame: {detail}"):
        read(packed)


@pytest.mark.parametrize("container", [b"\x90", b"\x80"])
def test_a_flood_of_empty_containers_is_stopped(container):
    row = b"\xdc\xff\xff" + container * 65_535
    flood = b"\x81\xa1a\xdc\x00\x3f" + row * 63
    assert len(flood) < MAX_METADATA_BYTES
    with pytest.raises(MalformedFrame, match=f"more than {MAX_METADATA_VALUES} values"):
        read(flood)


@pytest.mark.parametrize(
    ("table", "body_bytes", "detail"),
    [
        (None, 0, "tensor table is not a list of at most 65536 rows"),
        ({}, 0, "tensor table is not a list"),
        ([], 64, "the tensors take 0 bytes; the header declares a body of 64"),
        ([WEIGHT_ROW], 0, "fc.weight: ends at 64 with its padding; the body has 0 bytes"),
        ([WEIGHT_ROW], 63, "fc.weight: ends at 64 with its padding; the body has 63 bytes"),
        ([WEIGHT_ROW], 128, "the tensors take 64 bytes; the header declares a body of 128"),
        ([[*WEIGHT_ROW[:4], 4]], 128, "fc.weight: offset 4 is not a multiple of 64"),
        ([[*WEIGHT_ROW[:4], 64]], 128, "fc.weight: offset 64 leaves a gap; it must be 0"),
        ([[*WEIGHT_ROW[:4], -64]], 128, "fc.weight: offset -64 overlaps the tensor before it; it must be 0"),
        ([WEIGHT_ROW, [*BIAS_ROW[:4], 0]], 128, "fc.bias: offset 0 overlaps the tensor before it"),
        ([WEIGHT_ROW, [*BIAS_ROW[:4], 2**63]], 128, f"fc.bias: offset {2**63} leaves a gap; it must be 64"),
        ([WEIGHT_ROW, None], 128, "tensor table: row 1 is not .name, dtype, kind, shape, offset.: None"),
        ([WEIGHT_ROW, BIAS_ROW[:4]], 128, "tensor table: row 1 is not"),
        ([WEIGHT_ROW, [*BIAS_ROW, 0]], 128, "tensor table: row 1 is not"),
        ([[*WEIGHT_ROW[:4], False]], 64, "tensor table: row 0 is not"),
        ([[*WEIGHT_ROW[:4], 0.0]], 64, "tensor table: row 0 is not"),
        ([[b"", *WEIGHT_ROW[1:]]], 64, "tensor table: row 0: .* is not .name, dtype, kind, shape."),
        ([["w", "int8", "trainable", [], 0]], 64, "tensor table: row 0: w: kind trainable needs a floating"),
    ],
    ids=str,
)
def test_what_is_no_table(table, body_bytes, detail):
    with pytest.raises(MalformedFrame, match=f"^malformed-frame: {detail}"):
        read(msgpack.packb({"tensors": table}), body_bytes)


def test_too_many_rows(monkeypatch):
    monkeypatch.setattr(metadata, "MAX_TENSORS", 1)
    packed = msgpack.packb({"tensors": [WEIGHT_ROW, BIAS_ROW]})
    with pytest.raises(MalformedFrame, match="tensor table is not a list of at most 1 rows"):
        read(packed, 128)


def test_a_table_need_not_be_in_layout_order():
    bias_first = [[*BIAS_ROW[:4], 0], [*WEIGHT_ROW[:4], 64]]
    _, places = read(msgpack.packb({"tensors": bias_first}), 128)
    assert [(place.spec, place.offset_bytes) for place in places] == [(BIAS, 0), (WEIGHT, 64)]


def test_details_repeat_no_more_than_a_line_of_the_peers_bytes():
    huge = "x" * 1_000_000
    for packed in (
        msgpack.packb(huge),
        msgpack.packb({"tensors": [huge]}),
        msgpack.packb({"tensors": [["w", huge, "trainable", [], 0]]}),
        msgpack.packb({"tensors": [["w", "float32", huge, [], 0]]}),
        msgpack.packb({"tensors": [[huge, "float32", "trainable", [], 0]]}),
    ):
        with pytest.raises(MalformedFrame) as caught:
            read(packed, 64)
        assert len(caught.value.detail) < 250


@given(st.binary(max_size=64), st.sampled_from([0, 64]))
@example(b"\x81\xa7tensors\x91\x95\xa1w\xa7float32\xa9trainable\x90\x00", 64)
def test_any_bytes_are_metadata_or_malformed(packed, body_bytes):
    try:
        message, places = read(packed, body_bytes)
    except MalformedFrame:
        return
    assert isinstance(message, dict)
    assert bool(places) == bool(body_bytes)


anything = st.recursive(
    scalars | st.binary(max_size=3) | st.sampled_from(["w", "float32", "trainable", 0, 64]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=20,
)


@given(anything, st.integers(0, 3).map(lambda rows: rows * 64))
def test_any_table_is_one_or_malformed(table, body_bytes):
    try:
        read(msgpack.packb({"tensors": table}), body_bytes)
    except MalformedFrame:
        return


def test_a_tensor_twice_is_named():
    with pytest.raises(WireError, match=r"tensor 'fc\.weight' is there twice") as refused:
        unpack(msgpack.packb({"tensors": [WEIGHT_ROW, WEIGHT_ROW]}), 128)
    assert refused.value.code is Code.DUPLICATE_TENSOR
