from __future__ import annotations

import gc
import struct
import weakref

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from leeway.errors import BodyTooLarge, MalformedFrame, WireError
from leeway.protocol.codes import Code
from leeway.protocol.decoder import Decoder, decode
from leeway.protocol.frames import HEADER, MAGIC, encode
from leeway.protocol.limits import DEFAULT_MAX_BODY_BYTES, MAX_METADATA_BYTES
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import DTYPES, Kind, TensorSpec

WEIGHT = TensorSpec("fc.weight", (2, 3), "float32", Kind.TRAINABLE)
BIAS = TensorSpec("fc.bias", (2,), "float32", Kind.TRAINABLE)
LAYOUT = Layout.of([WEIGHT, BIAS])
BODY = bytes(range(24)) + bytes(40) + bytes(range(8)) + bytes(56)
FRAME = b"".join(encode({"kind": "gradient", "clock": 7}, LAYOUT, [BODY]))
HEAD_BYTES = len(FRAME) - len(BODY)
LIMIT = 1024


def room(nbytes):
    return memoryview(bytearray(nbytes))


kinds_and_dtypes = st.sampled_from(
    [(kind, name) for kind in Kind for name, d in DTYPES.items() if d.floating == (kind != "integer-buffer")]
)
tensors = st.builds(
    lambda name, shape, both: TensorSpec(name, tuple(shape), both[1], both[0]),
    st.text("abc.ü", min_size=1, max_size=6),
    st.lists(st.integers(0, 5), max_size=3),
    kinds_and_dtypes,
)
layouts = st.lists(tensors, max_size=8, unique_by=lambda spec: spec.name).map(Layout.of)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
messages = st.dictionaries(st.text().filter(lambda key: key != "tensors"), plain, max_size=4)


def body_of(layout, seed=0):
    """Random values in every tensor, zeros between them."""
    body = np.zeros(layout.nbytes, np.uint8)
    random = np.random.default_rng(seed)
    for place in layout.places.values():
        body[place.offset_bytes : place.end_bytes] = random.integers(0, 256, place.spec.nbytes)
    return body.tobytes()


def fill(decoder, data):
    """Fill the buffers that the decoder hands out, as a socket would; return what is left."""
    data = memoryview(data)
    while data and not decoder.done:
        buffer = decoder.buffer()
        assert buffer
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        decoder.filled(count)
        data = data[count:]
    return data


def header(magic=MAGIC, version=1, flags=0, metadata=1, reserved=0, body=0, reserved_too=0):
    return HEADER.pack(magic, version, flags, metadata, reserved, body, reserved_too)


@given(messages, layouts, st.data())
def test_round_trip_split_anywhere(message, layout, data):
    body = body_of(layout)
    encoded = b"".join(encode(message, layout, [body]))
    decoder = Decoder(layout.nbytes, room)
    cuts = data.draw(st.lists(st.integers(0, len(encoded)), max_size=6).map(sorted))
    for start, end in zip([0, *cuts], [*cuts, len(encoded)], strict=True):
        assert not fill(decoder, encoded[start:end])
    decoder.end()
    assert decoder.frame.message == message
    assert decoder.frame.matches(layout)
    assert decoder.frame.body == body
    for name, place in layout.places.items():
        assert decoder.frame.tensor(name) == body[place.offset_bytes : place.end_bytes]


@pytest.mark.parametrize("cut", range(len(FRAME) + 1))
def test_split_at_every_byte(cut):
    decoder = Decoder(LIMIT, room)
    for part in (FRAME[:cut], FRAME[cut:]):
        assert not fill(decoder, part)
    decoder.end()
    assert decoder.frame.body == BODY


def test_byte_by_byte():
    decoder = Decoder(LIMIT, room)
    for at in range(len(FRAME)):
        assert not decoder.done
        assert decoder.feed(FRAME[at : at + 1]) == 1
    assert decoder.done
    assert decoder.frame == decode(FRAME)


@pytest.mark.parametrize("length", range(len(FRAME)))
def test_truncation_at_every_byte(length):
    decoder = Decoder(LIMIT, room)
    assert not fill(decoder, FRAME[:length])
    assert not decoder.done
    with pytest.raises(MalformedFrame, match=r"truncated: \d+ of \d+ bytes of the (header|metadata|body)"):
        decoder.end()
    with pytest.raises(MalformedFrame, match="truncated: "):
        decode(FRAME[:length])


def test_the_detail_says_what_is_missing():
    for length, words in [
        (0, "0 of 32 bytes of the header"),
        (31, "31 of 32 bytes of the header"),
        (32, f"0 of {HEAD_BYTES - 32} bytes of the metadata"),
        (HEAD_BYTES + 5, "5 of 128 bytes of the body"),
    ]:
        decoder = Decoder(LIMIT, room)
        decoder.feed(FRAME[:length])
        with pytest.raises(MalformedFrame, match=f"truncated: {words} are there"):
            decoder.end()


def test_the_decoder_takes_no_byte_behind_the_frame():
    decoder = Decoder(LIMIT, room)
    assert decoder.feed(FRAME + b"next") == len(FRAME)
    assert decoder.feed(b"next") == 0
    decoder.end()
    assert len(fill(Decoder(LIMIT, room), FRAME + b"next")) == 4
    with pytest.raises(MalformedFrame, match="4 bytes follow the frame's end"):
        decode(FRAME + b"next")


def test_the_body_goes_straight_into_what_allocate_gave():
    room = bytearray(128)
    asked = []

    def allocate(nbytes):
        asked.append(nbytes)
        return memoryview(room)

    decoder = Decoder(LIMIT, allocate)
    decoder.feed(FRAME[: HEAD_BYTES - 1])
    assert asked == []
    decoder.feed(FRAME[HEAD_BYTES - 1 : HEAD_BYTES])
    assert asked == [128]
    decoder.buffer()[:5] = BODY[:5]
    decoder.filled(5)
    assert bytes(room[:5]) == BODY[:5]
    decoder.feed(FRAME[HEAD_BYTES + 5 :])
    assert asked == [128]
    assert decoder.frame.body.obj is room


def test_a_frame_without_body_allocates_nothing():
    decoder = Decoder(0, lambda nbytes: pytest.fail(f"allocated {nbytes}"))
    assert decoder.feed(encode({"a": 1})[0]) == 64
    assert decoder.frame.message == {"a": 1}


def test_what_allocate_raises_passes_through():
    def full(nbytes):
        raise MemoryError

    with pytest.raises(MemoryError):
        Decoder(LIMIT, full).feed(FRAME)


@pytest.mark.parametrize("body_bytes", [LIMIT + 1, 2**40, 2**64 - 1])
def test_a_declared_body_over_the_limit_is_refused_on_the_header(body_bytes):
    decoder = Decoder(LIMIT, lambda nbytes: pytest.fail(f"allocated {nbytes}"))
    with pytest.raises(BodyTooLarge, match=f"a body of {body_bytes} bytes; the limit is {LIMIT}") as caught:
        decoder.feed(header(body=body_bytes))
    assert caught.value.status == 413


def test_a_body_of_exactly_the_limit_passes():
    assert fill(Decoder(len(BODY), room), FRAME) == b""
    with pytest.raises(BodyTooLarge):
        fill(Decoder(len(BODY) - 1, room), FRAME)


def test_decode_allocates_no_more_than_it_was_given():
    layout = Layout.of([TensorSpec("w", (2**27,), "float32", Kind.TRAINABLE)])
    table_only = encode({}, Layout.of([]))[0]
    assert decode(table_only).places == ()
    (spec,) = (place.spec for place in layout.places.values())
    claims = msgpack.packb({"tensors": [[*spec.to_row(), 0]]})
    head = header(metadata=len(claims), body=layout.nbytes) + claims
    head = head.ljust(-len(head) % 64 + len(head), b"\0")
    with pytest.raises(MalformedFrame, match=f"truncated: a body of {2**29} bytes is declared in a frame of"):
        decode(head)
    with pytest.raises(BodyTooLarge, match="the limit is 100"):
        decode(head, max_body_bytes=100)


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (header(magic=b"LWAX"), r"wrong magic b'LWAX'; a frame begins with b'LWAY'"),
        (header(version=0), "format version 0; this side speaks 1"),
        (header(version=2), "format version 2; this side speaks 1"),
        (header(flags=1), "flags 0x1 and reserved fields 0, 0 must be zero"),
        (header(reserved=2), "flags 0x0 and reserved fields 2, 0 must be zero"),
        (header(reserved_too=3), "flags 0x0 and reserved fields 0, 3 must be zero"),
        (
            header(metadata=MAX_METADATA_BYTES + 1),
            f"{MAX_METADATA_BYTES + 1} bytes of metadata; the limit is",
        ),
        (header(metadata=0) + bytes(32), "metadata is not valid msgpack"),
        (header() + b"\x80" + bytes(30) + b"\1", "the padding behind the metadata is not zero"),
        (header() + b"\x90" + bytes(31), "metadata is not a map"),
        (header(body=64) + b"\x80" + bytes(31), "the tensors take 0 bytes; the header declares a body of 64"),
        (FRAME[:HEAD_BYTES] + BODY[:24] + b"\1" + BODY[25:], "fc.weight: the padding behind it is not zero"),
        (FRAME[:-1] + b"\1", "fc.bias: the padding behind it is not zero"),
    ],
)
def test_malformed(data, detail):
    decoder = Decoder(LIMIT, room)
    with pytest.raises(MalformedFrame, match=f"^malformed-frame: {detail}"):
        decoder.feed(data)
    assert not decoder.done


def test_the_largest_metadata_passes():
    # A map16 with one str32 of the right length fills the limit exactly.
    text_bytes = MAX_METADATA_BYTES - 1 - 2 - 5
    packed = b"\x81\xa1a\xdb" + struct.pack(">I", text_bytes) + b"x" * text_bytes
    assert len(packed) == MAX_METADATA_BYTES
    frame = decode(header(metadata=len(packed)) + packed + bytes(32))
    assert len(frame.message["a"]) == text_bytes


def test_misuse_is_our_own_bug():
    decoder = Decoder(LIMIT, room)
    for count in (0, -1, 33):
        with pytest.raises(AssertionError):
            decoder.filled(count)
    with pytest.raises(AssertionError, match="the frame is not complete"):
        _ = decoder.frame
    decoder.feed(FRAME)
    with pytest.raises(AssertionError, match="the decoder is done or has failed"):
        decoder.buffer()
    with pytest.raises(AssertionError, match="another size"):
        Decoder(LIMIT, lambda nbytes: memoryview(bytearray(nbytes + 1))).feed(FRAME)


def test_a_failed_decoder_takes_nothing_more():
    decoder = Decoder(LIMIT, room)
    with pytest.raises(MalformedFrame):
        decoder.feed(bytes(32))
    with pytest.raises(AssertionError, match="the decoder is done or has failed"):
        decoder.buffer()
    with pytest.raises(MalformedFrame):
        decoder.end()


def test_an_abandoned_body_is_freed_at_once():
    class Room(bytearray):
        pass

    alive = []

    def allocate(nbytes):
        room = Room(nbytes)
        alive.append(weakref.ref(room))
        return memoryview(room)

    gc.disable()
    try:
        decoder = Decoder(LIMIT, allocate)
        decoder.feed(FRAME[:-1])
        assert alive[0]() is not None
        del decoder
        assert alive[0]() is None
    finally:
        gc.enable()


def decoded_or_refused(data):
    try:
        return decode(data, LIMIT)
    except WireError as error:
        return error


def judge(data):
    """The contract: a frame whose parts fit together and that can be encoded again, or an error of the wire."""
    outcome = decoded_or_refused(data)
    if isinstance(outcome, WireError):
        assert outcome.code in (Code.MALFORMED_FRAME, Code.BODY_TOO_LARGE)
        assert len(outcome.detail) < 700
        return
    frame = outcome
    assert frame.body.nbytes <= LIMIT
    assert sum(len(frame.tensor(spec.name)) for spec in frame.specs) == sum(s.nbytes for s in frame.specs)
    again = encode(frame.message, Layout.of(frame.specs), [body_of(Layout.of(frame.specs))])
    assert decode(b"".join(again)).message == frame.message


@pytest.mark.parametrize("at", range(len(FRAME)))
def test_every_byte_mutated(at):
    for value in (0x00, 0x01, 0x7F, 0x80, 0xC0, 0xC1, 0xD9, 0xFF, FRAME[at] ^ 1, FRAME[at] ^ 0x80):
        judge(FRAME[:at] + bytes([value]) + FRAME[at + 1 :])


edits = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "delete", "repeat"]), st.integers(0, 500), st.binary(max_size=9)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(edits)
def test_mutated_frames_are_frames_or_wire_errors(edits):
    data = bytearray(FRAME)
    for what, at, some in edits:
        if what == "set":
            data[at : at + len(some)] = some
        elif what == "insert":
            data[at:at] = some
        elif what == "delete":
            del data[at : at + len(some)]
        else:
            data[at:at] = data[at : at + len(some)]
    judge(bytes(data))


@settings(max_examples=400)
@given(st.binary(max_size=200), st.integers(0, 3), st.booleans())
@example(b"\x80", 0, True)
def test_mutated_metadata_behind_a_good_header(packed, tensors, padded):
    body = bytes(64 * tensors)
    data = header(metadata=len(packed), body=len(body)) + packed
    judge(data + bytes(-len(data) % 64 if padded else 0) + body)


@given(st.binary(max_size=300))
def test_any_bytes(data):
    judge(data)


def test_the_default_limit_is_the_documented_one():
    with pytest.raises(BodyTooLarge, match=f"the limit is {DEFAULT_MAX_BODY_BYTES}"):
        decode(header(body=DEFAULT_MAX_BODY_BYTES + 1))
