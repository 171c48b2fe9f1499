"""Those who have connected to a listener with TLS and have not begun with it yet.

The one rule: whoever says nothing is one of the crowd from the first moment on, with TLS as without, and goes first
when there are too many. (asyncio tells of a connection when its handshake is over; until then nobody could close it for
those who come.)
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from leeway.transport.credentials.handshakes import HANDSHAKE_SECONDS

if TYPE_CHECKING:
    from leeway.transport.credentials.handshakes import ListenerContext
    from leeway.transport.http.connection import Connection
    from leeway.transport.http.crowd import Crowd


class Arrival(asyncio.Protocol):
    """Becomes `connection` when TLS has begun."""

    def __init__(self, connection: Connection, tls: ListenerContext, crowd: Crowd) -> None:
        self._connection = connection
        self._tls = tls
        self._crowd = crowd
        self._early = bytearray()
        self._gone = False

    @property
    def idle_since(self) -> None:
        """Whoever has not asked for anything is silent, and not idle."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is one by what it can do.
        self._transport = cast("asyncio.Transport", transport)
        self._crowd.entered(self)
        if not self._gone:
            # What comes before TLS has begun is for nobody else.
            self._transport.pause_reading()
            self._beginning = asyncio.get_running_loop().create_task(self._begin())

    def data_received(self, data: bytes) -> None:
        # What has come with the end of the handshake.
        self._early += data

    def connection_lost(self, error: Exception | None) -> None:
        self._gone = True
        self._crowd.left(self)

    def force_close(self) -> None:
        self._gone = True
        self._transport.abort()

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        # As a task: when it has come to its first wait, TLS is between the connection and this.
        beginning = loop.create_task(
            loop.start_tls(self._transport, self, self._tls, server_side=True, ssl_handshake_timeout=HANDSHAKE_SECONDS)
        )
        await asyncio.sleep(0)
        raw, self._early = bytes(self._early), bytearray()
        if raw:
            loop.call_soon(_feed, self._transport.get_protocol(), raw)
        try:
            over_tls = await beginning
        except (OSError, RuntimeError):
            return  # gone, too slow, or refused, which has been told
        finally:
            self._crowd.left(self)
        if self._gone or over_tls is None:
            return
        over_tls.set_protocol(self._connection)
        self._connection.connection_made(over_tls)
        if self._early:
            self._connection.data_received(bytes(self._early))


def _feed(protocol: Any, raw: bytes) -> None:
    """What has come before TLS was there: uvloop begins to read whatever `pause_reading` said before. `protocol`: an
    `asyncio.BufferedProtocol` by what it can do."""
    while raw:
        buffer = protocol.get_buffer(len(raw))
        count = min(len(buffer), len(raw))
        buffer[:count] = raw[:count]
        protocol.buffer_updated(count)
        raw = raw[count:]
