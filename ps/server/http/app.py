"""The HTTP application: routes, errors as problem documents, and what is counted of every request.

The one rule: whatever a request does, the connection gets an answer with a stable code and the server lives on.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from aiohttp import hdrs, web

from leeway.errors import MalformedRequest, WireError
from leeway.protocol.codes import Code
from leeway.ps.server.http.handlers import Handlers
from leeway.transport import descriptors
from leeway.transport.http import sending
from leeway.transport.http.connection import NO_ROUTE, Runner, close_after_upgrade

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Middleware

    from leeway.ps.server.runtime import Runtime
    from leeway.ps.server.saving import Saving
    from leeway.ps.watching.listeners import Listeners
    from leeway.ps.watching.metrics import ServerMetrics

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# A connection is kept this long between two requests: longer than a training step may take.
KEEPALIVE_SECONDS = 3600.0

# How long to read on from a client whose request was refused before its body was read, so that it sees the refusal.
LINGERING_SECONDS = 1.0


def application(runtime: Runtime, saving: Saving, max_body_bytes: int) -> web.Application:
    app = web.Application(middlewares=[_observed(runtime.metrics, runtime.listeners)])
    handlers = Handlers(runtime, saving, max_body_bytes)
    app.add_routes(handlers.table())
    app.on_shutdown.append(handlers.events.hurry)
    app.on_response_prepare.append(close_after_upgrade)
    return app


def runner(app: web.Application, runtime: Runtime, most_connections: int | None = None) -> web.AppRunner:
    """Handlers are cancelled when their client goes away: a parked pull of nobody is forgotten."""
    return Runner(
        app,
        runtime.metrics,
        runtime.machine.settings.lease_seconds,
        descriptors.most_connections() if most_connections is None else most_connections,
        access_log=None,
        handler_cancellation=True,
        auto_decompress=False,
        keepalive_timeout=KEEPALIVE_SECONDS,
        lingering_time=LINGERING_SECONDS,
        shutdown_timeout=1.0,
    )


def _observed(metrics: ServerMetrics, listeners: Listeners) -> Middleware:
    log = structlog.get_logger("ps.http")

    async def answer(request: web.Request, handler: Handler, route: str) -> web.StreamResponse:
        headers: dict[str, str] = {}
        try:
            return await handler(request)
        except WireError as error:
            # Without its traceback: the frames in there hold the refused body, and the error would hold them until
            # the garbage collector comes by.
            refusal = error.with_traceback(None)
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
        with listeners.guard("metrics"):
            metrics.refused(route, refusal.code)
        response = sending.problem(refusal, headers)
        if hdrs.CONNECTION in headers:
            response.force_close()
        return response

    @web.middleware
    async def observed(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else NO_ROUTE
        response = await answer(request, handler, route)
        with listeners.guard("metrics"):
            metrics.answered(route, request.method, response.status, time.perf_counter() - began)
            metrics.received(route, request.content.total_bytes)
            # Small responses are written after this; what they will be is known.
            metrics.sent(route, 0 if request.method == hdrs.METH_HEAD else response.content_length or 0)
        return response

    return observed


def _known(error: web.HTTPException, request: web.Request) -> WireError:
    if error.status == 404:
        return WireError(Code.NOT_FOUND, f"there is nothing at {request.path[:120]!r}; /openapi.yaml lists what is")
    if error.status == 405:
        allowed = error.headers.get("Allow", "")
        return WireError(
            Code.METHOD_NOT_ALLOWED, f"{request.method} is not for {request.path[:120]!r}; it takes {allowed}"
        )
    if error.status == 413:
        return WireError(Code.BODY_TOO_LARGE, error.reason)
    return WireError(Code.MALFORMED_REQUEST, error.reason)
