"""One connection of a client: what is not HTTP, who goes away in the middle, who says nothing, and when the other side
counts as gone.

The one rule: whatever comes in is answered with a problem document where the connection allows, and is counted; it is
never worth a traceback, since it is not our failure.
"""

from __future__ import annotations

import contextlib
import math
import socket
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import structlog
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import _ErrInfo

from leeway.errors import MalformedRequest
from leeway.protocol.limits import MAX_HEAD_SECONDS
from leeway.transport.http import sending
from leeway.transport.http.arrivals import Arrival
from leeway.transport.http.crowd import Closed, Crowd
from leeway.transport.http.pace import GRACE_SECONDS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from leeway.transport.credentials.handshakes import ListenerContext
    from leeway.transport.http.counts import Counts

# Requests that never came to a route, in the metrics.
NO_ROUTE = "unknown"

# What the parser says of a request goes on over several lines, with a copy of what it stumbled over.
_MAX_COMPLAINT = 200

# Probes of an idle connection that go unanswered before it counts as lost, where the platform has no time for that.
_PROBES = 3

# What a handler meets when its client is gone, or has stopped making sense in the middle of a body.
_GONE = (ConnectionError, web.RequestPayloadError)

_log = structlog.get_logger("leeway.http")


def options(lease_seconds: float) -> Iterator[tuple[int, int, int]]:
    """The socket options by which a half-open connection is noticed: (level, option, value), what the platform has.

    A worker whose cable was pulled must not live on its parked request: its connection is lost when it has
    acknowledged nothing for one lease, whether something was sent to it or it was only probed.
    """
    lease_milliseconds = max(1, round(lease_seconds * 1000))
    # The kernel probes in whole seconds.
    probe_seconds = max(1, math.floor(lease_seconds / _PROBES))
    yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
    for name, value in (
        ("TCP_KEEPIDLE", probe_seconds),
        ("TCP_KEEPINTVL", probe_seconds),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", lease_milliseconds),
    ):
        if hasattr(socket, name):
            yield socket.IPPROTO_TCP, getattr(socket, name), value


class Connection(web.RequestHandler):
    """`counts`: where refusals are counted. `socket_options`: set on the socket, see `options`."""

    __slots__ = ("_counts", "_crowd", "_head_timer", "_requests", "_socket_options")

    def __init__(
        self,
        server: web.Server,
        counts: Counts,
        crowd: Crowd,
        socket_options: tuple[tuple[int, int, int], ...],
        **more: Any,
    ) -> None:
        super().__init__(server, **more)
        self._counts = counts
        self._crowd = crowd
        self._socket_options = socket_options
        self._requests = 0
        self._head_timer: asyncio.TimerHandle | None = None

    @property
    def idle_since(self) -> float | None:
        """When its last answer was given, or it was made, on the loop's clock; None while it is being served."""
        if self._messages or (self._request_count and (self._waiter is None or self._waiter.done())):
            return None
        return self._next_keepalive_close_time - self._keepalive_timeout

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connected = transport.get_extra_info("socket")
        # The other side may be gone already.
        with contextlib.suppress(OSError):
            for option in self._socket_options:
                connected.setsockopt(*option)
        super().connection_made(transport)
        self._await_head()
        self._crowd.entered(self)

    def connection_lost(self, error: BaseException | None) -> None:
        self._head_is_there()
        self._crowd.left(self)
        super().connection_lost(error)

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(MAX_HEAD_SECONDS, self._head_is_late)

    def _head_is_there(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        # After a pause its timers come before what has arrived meanwhile.
        self._head_timer = self._loop.call_later(GRACE_SECONDS, self._crowd.close, self, Closed.SILENT)

    def known(self) -> None:
        """Its sender has shown credentials, or nobody needs any."""
        self._crowd.known(self)

    def body_is_slow(self) -> None:
        self._crowd.close(self, Closed.SLOW)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._request_count != self._requests:
            self._requests = self._request_count
            self._head_is_there()
            self._crowd.asked(self)
        elif self._head_timer is None and self.idle_since is not None:
            self._await_head()
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            # aiohttp tells nobody that the body before it (a bad chunk) will not end: its handler would wait for ever.
            begun = self._current_request.content if self._current_request is not None else None
            if len(self._messages) > 1:
                begun = self._messages[-2][1]
            if begun is not None and not begun.is_eof():
                begun.set_exception(web.RequestPayloadError(self._messages[-1][0].message))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What the parser has refused, or what came out of a handler: for the most part a client that is gone."""
        if isinstance(exc, _GONE):
            _log.debug("a client went away", remote=request.remote, error=repr(exc))
            raise ConnectionError("the client is gone") from None
        if not isinstance(exc, HttpProcessingError) or message is None:
            return super().handle_error(request, status, exc, message)
        complaint = " ".join(message.split())[:_MAX_COMPLAINT].rstrip(" ^")
        _log.debug("not HTTP", remote=request.remote, error=complaint)
        refusal = MalformedRequest(f"this is not HTTP as it is taken here: {complaint}")
        self._counts.refused(NO_ROUTE, refusal.code)
        self._counts.answered(NO_ROUTE, request.method, refusal.status, 0.0)
        response = sending.problem(refusal)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **facts: Any) -> None:
        """What aiohttp shows with its traceback, unless it is a client that went away."""
        error = facts.get("exc_info")
        if isinstance(error, _GONE):
            _log.debug("a client went away", error=repr(error))
        else:
            super().log_exception(*args, **facts)


class _Server(web.Server):
    """Makes a `Connection` of ours for each one that is accepted."""

    def __init__(
        self,
        like: web.Server,
        counts: Counts,
        lease_seconds: float,
        most_connections: int,
        tls: ListenerContext | None,
    ) -> None:
        super().__init__(
            like.request_handler,
            request_factory=like.request_factory,
            handler_cancellation=like.handler_cancellation,
            loop=like._loop,
            **like._kwargs,
        )
        self._counts = counts
        self._crowd = Crowd(most_connections, counts)
        self._socket_options = tuple(options(lease_seconds))
        self._tls = tls
        self._arrivals: WeakSet[Arrival] = WeakSet()

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override]  # what asyncio asks for
        made = Connection(self, self._counts, self._crowd, self._socket_options, loop=self._loop, **self._kwargs)
        if self._tls is None:
            return made
        arrival = Arrival(made, self._tls, self._crowd)
        self._arrivals.add(arrival)
        return arrival

    def pre_shutdown(self) -> None:
        for arrival in list(self._arrivals):
            arrival.force_close()
        super().pre_shutdown()


class Runner(web.AppRunner):
    """An `AppRunner` whose connections are ours. aiohttp has no public place for that: `_make_server` is it."""

    __slots__ = ("_counts", "_lease_seconds", "_most_connections", "_tls")

    def __init__(
        self,
        app: web.Application,
        counts: Counts,
        lease_seconds: float,
        most_connections: int,
        tls: ListenerContext | None = None,
        **more: Any,
    ) -> None:
        super().__init__(app, **more)
        self._tls = tls
        self._counts = counts
        self._lease_seconds = lease_seconds
        self._most_connections = most_connections

    async def _make_server(self) -> web.Server:
        like = await super()._make_server()
        return _Server(like, self._counts, self._lease_seconds, self._most_connections, self._tls)


async def close_after_upgrade(request: web.Request, response: web.StreamResponse) -> None:
    """Answer a request that offers another protocol (`Upgrade: h2c`) as plain HTTP/1.1, and close.

    aiohttp's parser stops behind such a request and loses what came with it in the same piece. Told to be closed, the
    connection's other side knows that nothing behind this request was taken, and asks again. For websockets the parser
    keeps the rest.
    """
    if request.headers.get(hdrs.UPGRADE, "websocket").lower() != "websocket":
        response.headers[hdrs.CONNECTION] = "close"
        response.force_close()
