"""One connection of one simulated worker: as little HTTP as a server's replies need.

The one rule: a load generator must cost less than what it loads, or it measures itself. aiohttp's client takes as long
for 4 KiB as the server does; this takes a fraction. Every byte is received and counted, bodies into memory that all
connections share: what is in there is nobody's.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from leeway.protocol.decoder import Decoder
from leeway.protocol.frames import frame_length
from leeway.protocol.routes import FRAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.protocol.frames import Buffer, Frame

# A reply's head and, of small models, its whole body: one call of the system.
_FIRST_BYTES = 16 * 1024

_END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Response:
    """`headers`: lower-case names. `content`: what is no frame."""

    status: int
    headers: dict[str, str]
    content: bytes
    frame: Frame | None


class Connection(asyncio.BufferedProtocol):
    """Kept alive; one exchange at a time. `shared`: memory for the body of any frame that comes.

    `sent_bytes` and `received_bytes` are of bodies alone, as the server counts them.
    """

    def __init__(self, shared: memoryview) -> None:
        self.received_bytes = 0
        self._handed_bytes = 0
        self._shared = shared
        self._first = bytearray(_FIRST_BYTES)
        self._first_view = memoryview(self._first)
        self._filled = 0
        self._answer: asyncio.Future[Response] | None = None
        self._transport: asyncio.Transport | None = None
        self._lost: Exception | None = None
        # Of the reply that is coming in: none until its head is complete.
        self._head: tuple[int, dict[str, str]] | None = None
        self._body: Decoder | bytearray = bytearray()
        self._missing_bytes = 0

    @classmethod
    async def open(cls, host: str, port: int, shared: memoryview) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(lambda: cls(shared), host, port)
        return connection

    @property
    def sent_bytes(self) -> int:
        """Bytes of bodies that the kernel has taken."""
        unsent = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return self._handed_bytes - min(unsent, self._handed_bytes)

    async def exchange(self, head: bytes, body: Sequence[Buffer] = ()) -> Response:
        """Send a request, receive its reply. `head` ends with an empty line.

        Raises `ConnectionError` when the connection is lost, `WireError` or `ValueError` for a reply that is none.
        """
        if self._lost is not None:
            raise self._lost
        assert self._transport is not None
        assert self._answer is None, "one exchange at a time"
        self._answer = asyncio.get_running_loop().create_future()
        self._handed_bytes += frame_length(body)
        self._transport.writelines([head, *body])
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert hasattr(transport, "writelines")
        # uvloop's transports are not asyncio's by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(ConnectionError(f"the server closed a connection: {error or 'without a reply'}"))

    def eof_received(self) -> bool:
        return False

    def get_buffer(self, _: int) -> memoryview:
        if self._head is not None and isinstance(self._body, Decoder):
            return self._body.buffer()
        return self._first_view[self._filled :]

    def buffer_updated(self, count: int) -> None:
        try:
            if self._head is not None and isinstance(self._body, Decoder):
                self._body.filled(count)
                self._took(count)
                return
            self._filled += count
            if self._head is None:
                self._read_head()
            elif self._filled:
                self._read_content(0)
        except Exception as error:
            self._fail(error)
            self.close()

    # How a reply is read.

    def _read_head(self) -> None:
        end = self._first.find(_END_OF_HEAD, 0, self._filled)
        if end < 0:
            if self._filled == len(self._first):
                raise ValueError("the head of a reply is too long")
            return
        status, *lines = self._first[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._head = int(status.split(" ", 2)[1]), headers
        self._missing_bytes = int(headers.get("content-length", "0"))
        is_frame = headers.get("content-type") == FRAME and self._missing_bytes > 0
        self._body = Decoder(len(self._shared), self._allocate) if is_frame else bytearray()
        self._read_content(end + len(_END_OF_HEAD))

    def _read_content(self, begin: int) -> None:
        """Take what lies in the first buffer from `begin` on."""
        data = self._first_view[begin : self._filled]
        if isinstance(self._body, Decoder):
            self._body.feed(data)
        else:
            self._body += data
        self._filled = 0
        self._took(len(data))

    def _took(self, count: int) -> None:
        self.received_bytes += count
        self._missing_bytes -= count
        if self._missing_bytes > 0:
            return
        assert self._head is not None
        assert self._missing_bytes == 0, "the server said more than it had announced"
        (status, headers), body, answer = self._head, self._body, self._answer
        self._head, self._body, self._answer = None, bytearray(), None
        frame = body.frame if isinstance(body, Decoder) else None
        if answer is not None and not answer.done():
            answer.set_result(Response(status, headers, b"" if isinstance(body, Decoder) else bytes(body), frame))

    def _allocate(self, nbytes: int) -> memoryview:
        return self._shared[:nbytes]

    def _fail(self, error: Exception) -> None:
        self._lost = self._lost or error
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(self._lost)
