from __future__ import annotations

import json

import pytest

from leeway.errors import MalformedRequest
from leeway.protocol import limits
from leeway.protocol.capacity import DEFAULT_CAPACITY, Capacity
from leeway.protocol.membership import GroupState, Joined
from leeway.protocol.tensors import Kind, TensorSpec


def test_reads_what_it_writes():
    capacity = Capacity(7, 9)
    assert Capacity.read(capacity.to_fields()) == capacity


@pytest.mark.parametrize("value", [{}, [], {"max_body_bytes": 0, "max_schema_bytes": 1}, {"max_body_bytes": 1}])
def test_refuses_what_says_no_size(value):
    with pytest.raises(MalformedRequest):
        Capacity.read(value)


def joined(**changes):
    return Joined(1, 1, False, 10.0, 0, 1, {"default": GroupState(0, "sync")}, **changes)


def test_comes_with_a_join():
    told = joined(limits=Capacity(123, 456))
    assert Joined.read(told.to_fields()) == told


def test_of_a_server_that_does_not_say_it_is_the_default():
    fields = joined().to_fields()
    del fields["limits"]
    assert Joined.read(fields).limits == DEFAULT_CAPACITY


@pytest.mark.parametrize("letter", ["x", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{HIRAGANA LETTER A}"])
def test_a_join_reply_with_the_fullest_table_fits(letter):
    """As many tensors as a group may have, with names as long as a frame's metadata lets through."""
    room = (limits.MAX_METADATA_BYTES // limits.MAX_TENSORS - 8) // len(letter.encode())
    specs = tuple(
        TensorSpec(f"{number:05}{letter * (room - 5)}", (1024, 1024), "float32", Kind.TRAINABLE)
        for number in range(limits.MAX_TENSORS)
    )
    reply = Joined(1, 1, False, 10.0, 0, 1, {"default": GroupState(0, "sync", None, specs)})
    assert len(json.dumps(reply.to_fields())) <= limits.MAX_REPLY_JSON_BYTES
