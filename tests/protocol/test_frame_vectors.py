"""The published vectors against the code in both directions, and against a reader written from the page alone."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path

import msgpack
import pytest

from leeway.errors import WireError
from leeway.protocol.decoder import decode
from leeway.protocol.frames import encode
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
VECTORS = REFERENCE / "frame-vectors"
VALID = json.loads((VECTORS / "valid.json").read_text("utf-8"))
MALFORMED = json.loads((VECTORS / "malformed.json").read_text("utf-8"))
PAGE = (REFERENCE / "frame-format.md").read_text("utf-8")

STRUCT_CODES = {
    "float64": "d", "float32": "f", "float16": "e", "int64": "q", "int32": "i",
    "int16": "h", "int8": "b", "uint8": "B", "bool": "?",
}  # fmt: skip


def by_name(vectors):
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


def data_of(vector):
    return bytes.fromhex((VECTORS / f"{vector['name']}.hex").read_text("ascii"))


def specs_of(vector):
    return [
        TensorSpec(tensor["name"], tuple(tensor["shape"]), tensor["dtype"], Kind(tensor["kind"]))
        for tensor in vector["tensors"] or ()
    ]


def values_of(raw, dtype):
    if dtype == "bfloat16":
        return [struct.unpack("<f", b"\0\0" + raw[at : at + 2])[0] for at in range(0, len(raw), 2)]
    code = STRUCT_CODES[dtype]
    return list(struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw))


def read_by_the_page(data):
    """A reader of valid frames as a stranger would write it: struct and msgpack, nothing of ours."""
    magic, version, flags, metadata_bytes, reserved, body_bytes, reserved_too = struct.unpack("<4sHHIIQQ", data[:32])
    assert (magic, version, flags, reserved, reserved_too) == (b"LWAY", 1, 0, 0, 0)
    metadata = msgpack.unpackb(data[32 : 32 + metadata_bytes])
    body_start = math.ceil((32 + metadata_bytes) / 64) * 64
    body = data[body_start:]
    assert len(body) == body_bytes
    tensors = []
    for name, dtype, kind, shape, offset in metadata.pop("tensors", []):
        itemsize = 2 if dtype == "bfloat16" else struct.calcsize(STRUCT_CODES[dtype])
        raw = body[offset : offset + itemsize * math.prod(shape)]
        tensors.append([name, dtype, kind, shape, offset, values_of(raw, dtype)])
    return metadata, tensors


def test_every_file_is_listed():
    listed = {f"{vector['name']}.hex" for vector in VALID} | {"valid.json", "malformed.json"}
    assert listed == {path.name for path in VECTORS.iterdir()}
    for vectors in (VALID, MALFORMED):
        assert len({vector["name"] for vector in vectors}) == len(vectors)


@by_name(VALID)
def test_valid_is_decoded(vector):
    data = data_of(vector)
    assert len(data) == vector["bytes"]
    frame = decode(data)
    assert frame.message == vector["message"]
    assert list(frame.specs) == specs_of(vector)
    for tensor, place in zip(vector["tensors"] or (), frame.places, strict=True):
        raw = bytes(frame.tensor(tensor["name"]))
        assert place.offset_bytes == tensor["offset"]
        assert raw == bytes.fromhex(tensor["bytes"])
        assert values_of(raw, tensor["dtype"]) == tensor["values"]


@by_name([vector for vector in VALID if vector["exact"]])
def test_valid_is_encoded(vector):
    if vector["tensors"] is None:
        assert encode(vector["message"]) == [data_of(vector)]
        return
    layout = Layout.of(reversed(specs_of(vector)))
    body = bytearray(layout.nbytes)
    for tensor in vector["tensors"]:
        place = layout.places[tensor["name"]]
        body[place.offset_bytes : place.end_bytes] = bytes.fromhex(tensor["bytes"])
    assert b"".join(encode(vector["message"], layout, [body])) == data_of(vector)


@by_name([vector for vector in VALID if vector["tensors"] is not None])
def test_the_layout_and_its_digest(vector):
    layout = Layout.of(specs_of(vector))
    assert decode(data_of(vector)).matches(layout) is vector["layout_order"]
    if vector["layout_order"]:
        assert layout.digest == vector["layout_digest"]


@by_name(VALID)
def test_valid_is_read_by_the_page_alone(vector):
    message, tensors = read_by_the_page(data_of(vector))
    assert message == vector["message"]
    assert tensors == [
        [tensor[key] for key in ("name", "dtype", "kind", "shape", "offset", "values")]
        for tensor in vector["tensors"] or ()
    ]


@by_name(MALFORMED)
def test_malformed_is_refused_with_its_code(vector):
    data = bytes.fromhex(vector["hex"])
    assert len(data) == vector["bytes"]
    with pytest.raises(WireError) as caught:
        decode(data)
    assert caught.value.code == vector["code"]


def test_the_pages_worked_example_is_the_vector():
    rows = re.findall(r"^([0-9a-f]{6})  ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)", PAGE, re.MULTILINE)
    assert [int(offset, 16) for offset, _ in rows] == [
        sum(len(bytes.fromhex(text)) for _, text in rows[:at]) for at in range(len(rows))
    ]
    (vector,) = (vector for vector in VALID if vector["name"] == "two-tensors")
    assert bytes.fromhex("".join(text for _, text in rows)) == data_of(vector)
