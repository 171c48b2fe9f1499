"""Frames: the decoder, whole and in pieces, and the encoder behind it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from leeway.errors import WireError
from leeway.protocol.decoder import Decoder, decode
from leeway.protocol.frames import FORMAT_VERSION, HEADER, MAGIC, Frame, encode
from leeway.protocol.limits import MAX_METADATA_BYTES
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import DTYPES, Kind, aligned
from tests.fuzz import trees
from tests.fuzz.target import Changed, same

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

VECTORS = Path(__file__).parents[2] / "docs" / "reference" / "frame-vectors"
MAX_BODY_BYTES = 65_536
WORDS = ("tensors", "rank", "epoch", "clock", *DTYPES, *Kind)


class Target:
    longest_bytes = 4096
    reserved_bytes = MAX_METADATA_BYTES + MAX_BODY_BYTES

    def __init__(self, folder: Path) -> None:
        """It needs none."""

    def seeds(self) -> Iterable[bytes]:
        return vectors()

    def words(self) -> Iterable[str]:
        return WORDS

    def take(self, data: bytes) -> bool:
        whole = _outcome(data)
        pieces = _in_pieces(data)
        if isinstance(whole, str) or isinstance(pieces, str):
            # Whoever sees the frame's length before its end may find another fault of it first.
            if isinstance(whole, str) != isinstance(pieces, str):
                raise Changed(f"whole: {whole}; in pieces: {pieces}")
            return False
        same((whole.message, whole.places), (pieces.message, pieces.places), "in pieces")
        if bytes(whole.body) != bytes(pieces.body):
            raise Changed("in pieces the body is another")
        again = decode(written(whole), MAX_BODY_BYTES)
        same(whole.message, again.message, "the message")
        same(set(whole.specs), set(again.specs), "the tensors")
        for spec in whole.specs:
            if bytes(whole.tensor(spec.name)) != bytes(again.tensor(spec.name)):
                raise Changed(f"the values of {spec}")
        return True

    def mutated(self, data: bytes, chance: Random) -> bytes | None:
        return mutated(data, chance, WORDS)


def vectors() -> list[bytes]:
    """The published ones."""
    valid = [
        bytes.fromhex((VECTORS / f"{row['name']}.hex").read_text("ascii"))
        for row in json.loads((VECTORS / "valid.json").read_text("utf-8"))
    ]
    malformed = [bytes.fromhex(row["hex"]) for row in json.loads((VECTORS / "malformed.json").read_text("utf-8"))]
    return valid + malformed


def written(frame: Frame) -> bytes:
    """The same tensors in the canonical layout."""
    layout = Layout.of(frame.specs)
    body = bytearray(layout.nbytes)
    for name, place in layout.places.items():
        body[place.offset_bytes : place.end_bytes] = frame.tensor(name)
    return b"".join(encode(frame.message, layout, [body]))


def mutated(data: bytes, chance: Random, words: tuple[str, ...]) -> bytes | None:
    """Another message or table in a frame whose lengths add up, most of the time."""
    try:
        length = struct.unpack_from("<I", data, 8)[0]
        metadata = msgpack.unpackb(data[HEADER.size : HEADER.size + length], strict_map_key=False)
        packed = msgpack.packb(trees.changed(metadata, chance, words))
    except (ValueError, TypeError, OverflowError, struct.error, msgpack.exceptions.UnpackException):
        return None
    body = data[aligned(HEADER.size + length) :]
    if chance.random() < 0.5:
        body = body[: len(body) // 64 * 64] + bytes(64 * chance.randrange(3))
    head = HEADER.pack(MAGIC, FORMAT_VERSION, 0, len(packed), 0, len(body), 0) + packed
    return head.ljust(aligned(len(head)), b"\0") + body


def _outcome(data: bytes) -> Frame | str:
    try:
        return decode(data, MAX_BODY_BYTES)
    except WireError as error:
        return str(error)


def _in_pieces(data: bytes) -> Frame | str:
    """As from a socket, in pieces whose sizes the data says."""
    decoder = Decoder(MAX_BODY_BYTES, lambda nbytes: memoryview(bytearray(nbytes)))
    at = 0
    try:
        while at < len(data):
            size = 1 + data[at] * 4
            piece = data[at : at + size]
            if decoder.done or decoder.feed(piece) < len(piece):
                return "more follows"
            at += size
        decoder.end()
    except WireError as error:
        return str(error)
    return decoder.frame


def plain(value: Any) -> Any:
    """As a peer would have it: through msgpack."""
    return msgpack.unpackb(msgpack.packb(value))
