"""What stages hand to each other: the label in the query, and the frame behind it.

An input is the query, a line feed, and the frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from leeway.errors import WireError
from leeway.protocol import routes
from leeway.protocol.decoder import decode
from leeway.protocol.fields import Fields
from leeway.protocol.frames import encode
from leeway.protocol.handovers import Call, Direction, Handover, Label, Purpose
from leeway.protocol.http.requests import read_label, write_request
from leeway.protocol.http.terms import HttpRequest
from leeway.protocol.limits import MAX_METADATA_BYTES
from leeway.protocol.lives import Life
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import DTYPES, Kind, TensorSpec
from tests.fuzz import frames, trees
from tests.fuzz.target import same

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from random import Random

WORDS = (
    *(*Direction, *Purpose, *DTYPES, *Kind),
    *("rank", "epoch", "incarnation", "stage", "sender", "receiver", "clock", "direction", "micro_batch", "purpose"),
    *("micro_batches", "samples", "total", "handed", "tensors"),
)


class Target:
    longest_bytes = 2048
    reserved_bytes = MAX_METADATA_BYTES + frames.MAX_BODY_BYTES

    def __init__(self, folder: Path) -> None:
        """It needs none."""

    def seeds(self) -> Iterable[bytes]:
        life = Life("r0", 1, 2, 1)
        for direction, sender, receiver in (
            (Direction.FORWARD, 1, 2),
            (Direction.BACKWARD, 1, 0),
            (Direction.SHARE, 1, 3),
        ):
            for dtype in ("float32", "bfloat16"):
                if direction is Direction.SHARE and dtype == "bfloat16":
                    continue
                label = Label(life, sender, receiver, 3, direction)
                handed = (("x", "float32"), ("n", "int64"))
                handover = Handover(label, Call(Purpose.TRAIN, 4), 2, 8, handed)
                specs = (
                    TensorSpec("x", (3,), dtype, Kind.FLOAT_BUFFER),
                    TensorSpec("n", (), "int64", Kind.INTEGER_BUFFER),
                )
                yield _written(handover, specs)
        skip = Label(life, 1, 2, 4, Direction.FORWARD)
        yield _written(Handover(skip, Call(Purpose.SKIP), 0, 0), ())

    def words(self) -> Iterable[str]:
        return WORDS

    def take(self, data: bytes) -> bool:
        try:
            handover, specs = _read(data)
        except WireError:
            return False
        again, _ = _read(_written(handover, specs))
        same(handover, again, "the handover")
        return True

    def mutated(self, data: bytes, chance: Random) -> bytes | None:
        query, _, frame = data.partition(b"\n")
        if chance.random() < 0.4:
            fields = trees.changed(dict(parse_qsl(query.decode("latin-1"))), chance, WORDS)
            if not isinstance(fields, dict):
                return None
            return urlencode({name: str(value) for name, value in fields.items()}).encode() + b"\n" + frame
        changed = frames.mutated(frame, chance, WORDS)
        return None if changed is None else query + b"\n" + changed


def _read(data: bytes) -> tuple[Handover, tuple[TensorSpec, ...]]:
    query, _, body = data.partition(b"\n")
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100_000)
    label = read_label(HttpRequest("POST", routes.HANDOVERS, query=dict(reversed(pairs))))
    frame = decode(body, frames.MAX_BODY_BYTES)
    return Handover.read(Fields(frame.message, "handover"), label, frame.specs), frame.specs


def _written(handover: Handover, specs: tuple[TensorSpec, ...]) -> bytes:
    head = write_request(handover)
    layout = Layout.of(specs)
    frame = b"".join(encode(frames.plain(dict(head.fields or {})), layout, [bytes(layout.nbytes)]))
    return urlencode(head.query).encode() + b"\n" + frame
