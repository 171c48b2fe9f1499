"""What a stock msgpack library writes or lets pass, and this format does not take: the table in without-python.md."""

import struct

import msgpack
import pytest

from leeway.errors import MalformedFrame, MalformedRequest
from leeway.protocol.fields import Fields
from leeway.protocol.metadata import unpack
from leeway.protocol.pushes import Push

PUSH = {"rank": "w0", "epoch": 1, "incarnation": 1, "clock": 1, "version": 1, "kind": "gradient", "samples": 1}


@pytest.mark.parametrize(
    "packed",
    [
        b"\x82\xa1a\x01\xa1a\x01",
        b"\x81\x01\x01",
        b"\x81\xc0\x01",
        b"\x81\xc4\x01a\x01",
        b"\x80\x80",
        b"\x80\x00",
        b"\x81\xa1a\xa1\xff",
        b"\x81\xa1a\xa3\xed\xa0\x80",
        b"\x81\xa1a\xc4\x01a",
        b"\x81\xa1a\xd4\x05a",
        b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",
        b"\x81\xa1a\xdd\xff\xff\xff\xff",
        b"\x81\xa1a\xdf\x00\x01\x00\x01",
        b"\x81\xa1a" + b"\x91" * 16 + b"\xc0",
    ],
    ids=lambda packed: packed[:12].hex(),
)
def test_refused(packed):
    with pytest.raises(MalformedFrame):
        unpack(memoryview(packed), 0)


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (b"\xde\x00\x01\xd9\x01a\xcd\x00\x01", {"a": 1}),
        (b"\xdf\x00\x00\x00\x01\xda\x00\x01a\xd3\x00\x00\x00\x00\x00\x00\x00\x01", {"a": 1}),
        (b"\x81\xa1a\xca" + struct.pack(">f", 0.5), {"a": 0.5}),
        (b"\x81\xa1a\xdd\x00\x00\x00\x01\xc3", {"a": [True]}),
    ],
)
def test_every_form_of_a_value_is_taken(packed, message):
    assert unpack(memoryview(packed), 0) == (message, ())


@pytest.mark.parametrize("name", ["epoch", "clock", "version", "samples", "round", "part", "parts"])
@pytest.mark.parametrize("value", [1.0, True, 2**53, 2**64 - 1, -1, float("nan"), [1]], ids=repr)
def test_an_integer_is_an_integer(name, value):
    message, _ = unpack(memoryview(msgpack.packb(PUSH | {name: value})), 0)
    with pytest.raises(MalformedRequest, match=f"'{name}'"):
        Push.read(Fields(message, "push"), ())


def test_a_metric_may_be_anything_that_is_a_number():
    metrics = {"loss": float("nan"), "most": float("inf"), "count": 3}
    message, _ = unpack(memoryview(msgpack.packb(PUSH | {"metrics": metrics})), 0)
    push = Push.read(Fields(message, "push"), ())
    assert push.metrics["loss"] != push.metrics["loss"]
    assert (push.metrics["most"], push.metrics["count"]) == (float("inf"), 3.0)
