from __future__ import annotations

import numpy as np
import pytest
import torch

from leeway.protocol.decoder import decode
from leeway.protocol.frames import HEADER, Frame, encode, flat, frame_length
from leeway.protocol.spans import Layout, Place
from leeway.protocol.tensors import Kind, TensorSpec

WEIGHT = TensorSpec("fc.weight", (2, 3), "float32", Kind.TRAINABLE)
BIAS = TensorSpec("fc.bias", (2,), "float32", Kind.TRAINABLE)
LAYOUT = Layout.of([WEIGHT, BIAS])


def body():
    """A body of LAYOUT: 1..6 in the weight, 7 and 8 in the bias."""
    array = np.zeros(32, np.float32)
    array[:6] = range(1, 7)
    array[16:18] = [7, 8]
    return array


def test_the_header_is_32_bytes():
    assert HEADER.size == 32


def test_a_head_is_header_metadata_and_zeros_up_to_64():
    (head,) = encode({})
    assert bytes(head) == b"LWAY\1\0\0\0" + b"\1\0\0\0\0\0\0\0" + bytes(16) + b"\x80" + bytes(31)


@pytest.mark.parametrize("letters", range(60))
def test_every_head_is_padded_with_zeros_to_a_multiple_of_64(letters):
    (head,) = encode({"a": "x" * letters})
    metadata_bytes = HEADER.unpack_from(head)[3]
    assert len(head) % 64 == 0
    assert len(head) - 32 - metadata_bytes < 64
    assert not any(head[32 + metadata_bytes :])
    assert decode(head).message == {"a": "x" * letters}


def test_the_bodys_buffers_are_handed_through_untouched():
    array = body()
    parts = [memoryview(array)[:10], memoryview(array)[10:], memoryview(b"")]
    head, *rest = encode({"a": 1}, LAYOUT, parts)
    assert [id(part) for part in rest] == [id(part) for part in parts]
    assert frame_length([head, *rest]) == len(head) + 128
    array[0] = 42.0
    assert np.frombuffer(rest[0], np.float32)[0] == 42.0


def test_a_round_trip():
    buffers = encode({"a": 1}, LAYOUT, [body().data])
    frame = decode(b"".join(buffers))
    assert frame.message == {"a": 1}
    assert frame.specs == (WEIGHT, BIAS)
    assert frame.places == (Place(WEIGHT, 0), Place(BIAS, 64))
    assert np.frombuffer(frame.tensor("fc.weight"), np.float32).tolist() == [1, 2, 3, 4, 5, 6]
    assert np.frombuffer(frame.tensor("fc.bias"), np.float32).tolist() == [7, 8]
    assert frame.body == body().tobytes()


@pytest.mark.parametrize(
    ("layout", "parts", "words"),
    [
        (None, [b"x"], "the body's buffers have 1 bytes; the layout takes 0"),
        (LAYOUT, [], "the body's buffers have 0 bytes; the layout takes 128"),
        (LAYOUT, [bytes(128), b"x"], "the body's buffers have 129 bytes; the layout takes 128"),
        (LAYOUT, [memoryview(np.zeros(31, np.float32))], "the body's buffers have 124 bytes"),
    ],
)
def test_a_body_that_does_not_fit_the_layout(layout, parts, words):
    with pytest.raises(ValueError, match=words):
        encode({}, layout, parts)


def test_a_frame_without_tensors():
    frame = decode(encode({"a": [1]})[0])
    assert frame == Frame({"a": [1]}, (), memoryview(b""))
    assert frame.specs == ()


def test_tensor_is_a_view_of_the_body():
    room = memoryview(bytearray(128))
    frame = Frame({}, tuple(LAYOUT.places.values()), room)
    frame.tensor("fc.bias")[:] = b"12345678"
    assert bytes(room[64:72]) == b"12345678"
    with pytest.raises(KeyError, match=r"fc\.other"):
        frame.tensor("fc.other")


def test_an_empty_tensor_is_an_empty_view():
    layout = Layout.of([TensorSpec("a", (0,), "int8", Kind.INTEGER_BUFFER), WEIGHT])
    frame = decode(b"".join(encode({}, layout, [bytes(64)])))
    assert frame.tensor("a").nbytes == 0
    assert frame.tensor("fc.weight").nbytes == 24


def test_matches_only_the_identical_layout():
    frame = Frame({}, tuple(LAYOUT.places.values()), memoryview(bytes(128)))
    assert frame.matches(LAYOUT)
    assert frame.matches(Layout.of([BIAS, WEIGHT]))
    assert not frame.matches(Layout.of([WEIGHT]))
    assert not frame.matches(Layout.of([WEIGHT, TensorSpec("fc.bias", (3,), "float32", Kind.TRAINABLE)]))
    assert not frame.matches(Layout.of([WEIGHT, TensorSpec("fc.bias", (2,), "float32", Kind.FLOAT_BUFFER)]))
    swapped = Frame({}, (Place(BIAS, 0), Place(WEIGHT, 64)), memoryview(bytes(128)))
    assert not swapped.matches(LAYOUT)


@pytest.mark.parametrize(
    "buffer",
    [
        b"abcdefgh",
        bytearray(b"abcdefgh"),
        memoryview(b"abcdefgh"),
        np.frombuffer(b"abcdefgh", np.uint8).data,
        np.frombuffer(b"abcdefgh", np.float16).reshape(2, 2).data,
        np.frombuffer(b"abcdefgh", np.float64).reshape(()).data,
        np.frombuffer(b"abcdefgh", np.bool_).data,
        torch.frombuffer(bytearray(b"abcdefgh"), dtype=torch.bfloat16).view(torch.uint8).numpy().data,
    ],
)
def test_flat_gives_the_bytes_of_any_buffer(buffer):
    view = flat(buffer)
    assert view == b"abcdefgh"
    assert (view.format, view.ndim) == ("B", 1)


def test_flat_does_not_copy():
    array = np.zeros((2, 2), np.float32)
    view = flat(array.data)
    array[0, 0] = 1.0
    assert bytes(view[:4]) == b"\x00\x00\x80\x3f"


def test_flat_of_nothing():
    assert flat(np.zeros((3, 0), np.float32).data) == b""


def test_flat_refuses_gaps():
    with pytest.raises(ValueError, match="a buffer of a body must be contiguous"):
        flat(np.zeros((4, 4), np.float32)[:, :2].data)
