"""Listens at an address, and answers whatever comes: a server's side, or a worker's that serves others.

The one rule: whatever a request does, the connection gets an answer with a stable code, and the listener lives on.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import hdrs, web

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import routes
from leeway.protocol.codes import Code
from leeway.transport import descriptors
from leeway.transport.http import sending
from leeway.transport.http.connection import NO_ROUTE, Connection, Runner, close_after_upgrade
from leeway.transport.http.counts import Uncounted
from leeway.transport.http.exchange import KEEPALIVE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from aiohttp.typedefs import Middleware

    from leeway.transport.credentials.handshakes import ListenerContext
    from leeway.transport.http.counts import Counts
    from leeway.transport.http.gate import Gate

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# How long to read on from a client whose request was refused before its body was read, so that it sees the refusal.
LINGERING_SECONDS = 1.0

# How long a stop waits for the handlers that are still at work.
SHUTDOWN_SECONDS = 1.0

_NOT_PLAIN: Final = "this address is encrypted: it begins with https://"

# How many may wait to be accepted.
BACKLOG = 1024


class Listener:
    """`routes`: what is asked of it, `leeway.transport.http.messages` has those of the protocol.

    A connection whose other side has acknowledged nothing for `lease_seconds` is lost. `before_stop` is called when
    nobody new is let in any more, and is given `SHUTDOWN_SECONDS` to end what does not end by itself. `gate`: who is
    let in; None: that is for the handlers. A handler finds who asks under `gate.CALLER`.
    """

    def __init__(
        self,
        routes: Iterable[web.RouteDef],
        *,
        lease_seconds: float,
        counts: Counts | None = None,
        most_connections: int | None = None,
        before_stop: Callable[[], Awaitable[None]] | None = None,
        gate: Gate | None = None,
        tls: ListenerContext | None = None,
    ) -> None:
        counts = counts or Uncounted()
        most = descriptors.most_connections() if most_connections is None else most_connections
        self._tls = tls
        if tls is not None:
            tls.to_plain = sending.written(MalformedRequest(_NOT_PLAIN))
        app = web.Application(middlewares=[_observed(counts, gate)])
        app.add_routes(routes)
        app.on_response_prepare.append(close_after_upgrade)
        app.on_response_prepare.append(_keep_private)
        if before_stop is not None:

            async def stopping(_: web.Application) -> None:
                await before_stop()

            app.on_shutdown.append(stopping)
        # Handlers are cancelled when their client goes away: a parked pull of nobody is forgotten.
        self._runner = Runner(
            app,
            counts,
            lease_seconds,
            most,
            tls,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGERING_SECONDS,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )

    @property
    def connections(self) -> list[Connection]:
        """Those that are open."""
        open_ones = self._runner.server.connections if self._runner.server is not None else ()
        return [connection for connection in open_ones if isinstance(connection, Connection)]

    async def start(self, host: str, port: int) -> str:
        """Listen, and return the address as a URL. `port` 0: a free one. Raises `OSError`."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, backlog=BACKLOG).start()
        bound_host, bound_port = self._runner.addresses[0][:2]
        scheme = "http" if self._tls is None else "https"
        return (
            f"{scheme}://[{bound_host}]:{bound_port}" if ":" in bound_host else f"{scheme}://{bound_host}:{bound_port}"
        )

    async def stop(self) -> None:
        """Let nobody in any more, let those who are being answered have their answer, and close all connections."""
        await self._runner.cleanup()


def _observed(counts: Counts, gate: Gate | None) -> Middleware:
    log = structlog.get_logger("leeway.http")

    async def answer(request: web.Request, handler: Handler, route: str) -> web.StreamResponse:
        headers: dict[str, str] = {}
        try:
            _admit(request, gate, route)
            with gate.answering(request) if gate is not None else nullcontext():
                response = await handler(request)
            if _is_stranger(request, gate) and not response.prepared:
                response.force_close()
            return response
        except WireError as error:
            # Without its traceback: the frames in there hold the refused body, and the error would hold them until
            # the garbage collector comes by.
            refusal = error.with_traceback(None)
            if error.code is Code.UNAUTHENTICATED:
                headers = {hdrs.WWW_AUTHENTICATE: "Bearer"}
        except web.HTTPException as error:
            refusal = _known(error, request)
            headers = {name: value for name, value in error.headers.items() if name == hdrs.ALLOW}
        except web.RequestPayloadError as error:
            if request.transport is None or request.transport.is_closing():
                raise
            refusal = MalformedRequest(f"the body is not as its headers say: {' '.join(str(error).split())[:200]}")
            headers = {hdrs.CONNECTION: "close"}  # where the next request would begin is not known
        except (asyncio.CancelledError, ConnectionError):
            raise  # the client is gone, there is nobody to answer
        except Exception:
            log.exception("a handler failed", method=request.method, path=request.path)
            refusal = WireError(Code.INTERNAL, "the server failed on this request; its log says why")
        counts.refused(route, refusal.code)
        response = sending.problem(refusal, headers)
        if hdrs.CONNECTION in headers:
            response.force_close()
        if _is_stranger(request, gate):
            # A stranger has one answer, and a moment to hear it; what it sends meanwhile is not even read.
            response.force_close()
            if request.transport is not None and not request.content.is_eof():
                request.transport.pause_reading()
        return response

    @web.middleware
    async def observed(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else NO_ROUTE
        response = await answer(request, handler, route)
        counts.answered(route, request.method, response.status, time.perf_counter() - began)
        received = request.content.total_bytes
        # Small responses are written after this; what they will be is known.
        sent = 0 if request.method == hdrs.METH_HEAD else response.content_length or 0
        counts.received(route, received)
        counts.sent(route, sent)
        if gate is not None:
            gate.carried(request, received + sent)
        return response

    return observed


def _admit(request: web.Request, gate: Gate | None, route: str) -> None:
    """Raises `WireError` for who may not do this."""
    try:
        if gate is not None:
            gate.admit(request, route)
    finally:
        if not _is_stranger(request, gate) and isinstance(request.protocol, Connection):
            request.protocol.known()


async def _keep_private(request: web.Request, response: web.StreamResponse) -> None:
    """What is read is for who has asked: no cache on the way keeps it, and no browser takes it for something else."""
    if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")


def _is_stranger(request: web.Request, gate: Gate | None) -> bool:
    return gate is not None and not gate.knows(request)


def _known(error: web.HTTPException, request: web.Request) -> WireError:
    if error.status == 404:
        listed = any(resource.canonical == routes.OPENAPI for resource in request.app.router.resources())
        hint = f"; {routes.OPENAPI} lists what is" if listed else ""
        return WireError(Code.NOT_FOUND, f"there is nothing at {request.path[:120]!r}{hint}")
    if error.status == 405:
        allowed = error.headers.get("Allow", "")
        return WireError(
            Code.METHOD_NOT_ALLOWED, f"{request.method} is not for {request.path[:120]!r}; it takes {allowed}"
        )
    if error.status == 413:
        return WireError(Code.BODY_TOO_LARGE, error.reason)
    return WireError(Code.MALFORMED_REQUEST, error.reason)
