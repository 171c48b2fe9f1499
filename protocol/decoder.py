"""The one parser of frames, incremental and without I/O: it says which buffer to fill next, and judges it.

The one rule: any bytes end in a `Frame` or a `WireError`, never in anything else, and nothing of a declared
size is allocated before that size is judged.

    decoder = Decoder(max_body_bytes, allocate)
    while not decoder.done:
        count = read_into(decoder.buffer())
        decoder.filled(count) if count else decoder.end()
    decoder.frame

The format's states are the `yield`s of `_parse`, in the order of the bytes: header, metadata, body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from leeway.errors import BodyTooLarge, MalformedFrame
from leeway.protocol.frames import FORMAT_VERSION, HEADER, MAGIC, Buffer, Frame, flat
from leeway.protocol.limits import DEFAULT_MAX_BODY_BYTES, MAX_METADATA_BYTES
from leeway.protocol.metadata import unpack
from leeway.protocol.tensors import aligned

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from leeway.protocol.spans import Place

Allocate: TypeAlias = "Callable[[int], memoryview]"


class Decoder:
    """Decodes one frame.

    `allocate(nbytes)` is called at most once, for a body that is not empty, when header and metadata are
    valid and `nbytes <= max_body_bytes`; it returns a writable view of exactly `nbytes` bytes, into which the
    body is received. What it raises passes through. After a `WireError` the decoder is of no more use.
    """

    __slots__ = ("_filled", "_frame", "_parser", "_part", "_view")

    def __init__(self, max_body_bytes: int, allocate: Allocate) -> None:
        # The parser does not know the decoder: no reference cycle keeps an abandoned body alive.
        self._parser = _parse(max_body_bytes, allocate)
        self._frame: Frame | None = None
        self._part, self._view = next(self._parser)
        self._filled = 0

    @property
    def done(self) -> bool:
        return self._frame is not None

    @property
    def frame(self) -> Frame:
        """The decoded frame; to be asked for when `done`."""
        assert self._frame is not None, "the frame is not complete"
        return self._frame

    def buffer(self) -> memoryview:
        """The buffer to fill next, from its start: never empty, and never reaching beyond the frame's end."""
        view = self._view[self._filled :]
        assert view, "the decoder is done or has failed"
        return view

    def filled(self, count: int) -> None:
        """Tell that the first `count` bytes of `buffer()` are filled.

        Raises `MalformedFrame`, or `BodyTooLarge` as soon as the header declares a body over the limit.
        """
        assert 0 < count <= len(self._view) - self._filled, "filled more than the buffer, or nothing"
        self._filled += count
        if self._filled < len(self._view):
            return
        try:
            self._part, self._view = next(self._parser)
            self._filled = 0
        except StopIteration as finished:
            self._frame = finished.value

    def feed(self, data: Buffer) -> int:
        """Copy bytes in, and return how many were taken: all of them unless the frame ends before.

        Raises what `filled` raises.
        """
        source = flat(data)
        taken = 0
        while taken < len(source) and not self.done:
            target = self.buffer()
            count = min(len(target), len(source) - taken)
            target[:count] = source[taken : taken + count]
            self.filled(count)
            taken += count
        return taken

    def end(self) -> None:
        """Tell that the peer has no more bytes. Raises `MalformedFrame` unless the frame is complete."""
        if not self.done:
            raise MalformedFrame(f"truncated: {self._filled} of {len(self._view)} bytes of the {self._part} are there")


def decode(data: Buffer, max_body_bytes: int = DEFAULT_MAX_BODY_BYTES) -> Frame:
    """Decode a frame that lies in memory as a whole; its body is copied. Raises `WireError`."""
    size = memoryview(data).nbytes

    def allocate(nbytes: int) -> memoryview:
        if nbytes > size:
            raise MalformedFrame(f"truncated: a body of {nbytes} bytes is declared in a frame of {size}")
        return memoryview(bytearray(nbytes))

    decoder = Decoder(max_body_bytes, allocate)
    taken = decoder.feed(data)
    decoder.end()
    if taken < size:
        raise MalformedFrame(f"{size - taken} bytes follow the frame's end")
    return decoder.frame


def _parse(max_body_bytes: int, allocate: Allocate) -> Generator[tuple[str, memoryview], None, Frame]:
    """Yield each part's name and the buffer to fill; when resumed, that buffer is full."""
    header = bytearray(HEADER.size)
    yield "header", memoryview(header)
    metadata_bytes, body_bytes = _read_header(header, max_body_bytes)

    # The padding is received with the metadata: the body then begins at a buffer's start.
    rest = memoryview(bytearray(aligned(HEADER.size + metadata_bytes) - HEADER.size))
    yield "metadata", rest
    if any(rest[metadata_bytes:]):
        raise MalformedFrame("the padding behind the metadata is not zero")
    message, places = unpack(rest[:metadata_bytes], body_bytes)

    if body_bytes == 0:
        return Frame(message, places, memoryview(b""))
    body = allocate(body_bytes)
    assert body.nbytes == len(body) == body_bytes, "allocate returned a buffer of another size"
    yield "body", body
    _check_padding(places, body)
    return Frame(message, places, body)


def _read_header(header: bytearray, max_body_bytes: int) -> tuple[int, int]:
    """Judge the header; return the lengths of metadata and body in bytes."""
    magic, version, flags, metadata_bytes, reserved, body_bytes, reserved_too = HEADER.unpack(header)
    if magic != MAGIC:
        raise MalformedFrame(f"wrong magic {magic!r}; a frame begins with {MAGIC!r}")
    if version != FORMAT_VERSION:
        raise MalformedFrame(f"format version {version}; this side speaks {FORMAT_VERSION}")
    if flags or reserved or reserved_too:
        raise MalformedFrame(f"flags {flags:#x} and reserved fields {reserved}, {reserved_too} must be zero")
    if metadata_bytes > MAX_METADATA_BYTES:
        raise MalformedFrame(f"{metadata_bytes} bytes of metadata; the limit is {MAX_METADATA_BYTES}")
    if body_bytes > max_body_bytes:
        raise BodyTooLarge(f"a body of {body_bytes} bytes; the limit is {max_body_bytes}")
    return metadata_bytes, body_bytes


def _check_padding(places: tuple[Place, ...], body: memoryview) -> None:
    # Spans are computed on with their padding: a NaN in there would be found by the finite guard and blamed
    # on no tensor, or be published. At most 63 bytes a tensor are looked at.
    for place in places:
        end = place.end_bytes
        if bytes(body[end : aligned(end)]).strip(b"\0"):
            raise MalformedFrame(f"{place.spec.name}: the padding behind it is not zero")
