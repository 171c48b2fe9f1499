"""Sends replies out: messages become HTTP responses, versions become streamed bodies.

The one rule: a version's bytes go out as views of its immutable memory, never through a copy, and whoever sends them
holds a lease until the transport has let go of the last view.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from leeway.errors import WireError
from leeway.protocol import limits, routes, streams
from leeway.protocol.codes import Code
from leeway.protocol.frames import encode, frame_length
from leeway.protocol.replies import (
    Disposition,
    Granted,
    NotYet,
    PolicyState,
    Pushed,
    PushPulled,
    Refused,
    Staged,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leeway.protocol.frames import Buffer
    from leeway.protocol.replies import Reply
    from leeway.ps.server.runtime import Outcome

# After this long a client may ask again: long enough not to hurt, short enough not to be noticed.
RETRY_AFTER_SECONDS = 1

# How much may lie unsent in a transport before a writer is held up: a few pieces, so that the socket never runs dry.
UNSENT_HIGH_BYTES = 4 * 1024 * 1024


def compact(value: Mapping[str, Any]) -> str:
    """JSON for a header: one line, ASCII."""
    return json.dumps(value, separators=(",", ":"))


def problem(error: WireError, headers: Mapping[str, str] | None = None) -> web.Response:
    """A problem document (RFC 9457)."""
    told = dict(headers or {})
    if error.status == 503:
        told[hdrs.RETRY_AFTER] = str(RETRY_AFTER_SECONDS)
    return web.json_response(error.to_document(), status=error.status, content_type=routes.PROBLEM, headers=told)


def small(reply: Reply) -> web.Response:
    """A reply without tensors."""
    match reply:
        case Refused(error):
            raise error
        case NotYet():
            return web.Response(
                status=204,
                headers={
                    hdrs.RETRY_AFTER: str(RETRY_AFTER_SECONDS),
                    routes.REASON_HEADER: compact(reply.to_fields()),
                },
            )
        case Pushed(disposition=Disposition.HELD) | Staged():
            return web.json_response(reply.to_fields(), status=202)
        case PolicyState():
            return web.json_response(reply.to_fields())
        case Granted() | PushPulled():
            raise AssertionError("these carry tensors")
        case _:
            return web.json_response(reply.to_fields())


async def pulled(request: web.Request, outcome: Outcome, body: Sequence[memoryview]) -> web.StreamResponse:
    """The answer to a pull: 200 with a frame, 304 with the grant in a header, 204 with the reason in one.

    `body`: the version's, lent to this reader.
    """
    reply = outcome.reply
    if not isinstance(reply, Granted):
        return small(reply)
    headers: dict[str, str] = {hdrs.ETAG: reply.version.etag}
    if reply.unchanged:
        return web.Response(status=304, headers=headers | {routes.GRANT_HEADER: compact(reply.to_fields())})
    assert outcome.version is not None
    buffers = encode(reply.to_fields(), outcome.version.layout, body)
    return await stream(request, buffers, routes.FRAME, headers=headers)


async def push_pulled(request: web.Request, outcome: Outcome, body: Sequence[memoryview]) -> web.StreamResponse:
    """The answer to a push that asked for the next parameters: one frame with both results."""
    reply = outcome.reply
    if not isinstance(reply, PushPulled):
        return small(reply)
    status = 202 if reply.pushed.disposition is Disposition.HELD else 200
    message: dict[str, Any] = {"push": reply.pushed.to_fields()}
    match reply.pulled:
        case Granted():
            message |= {"pulled": "granted", "pull": reply.pulled.to_fields()}
        case NotYet():
            message |= {"pulled": "not-yet", "pull": reply.pulled.to_fields()}
        case Refused(error):
            message |= {"pulled": "refused", "pull": error.to_document()}
    layout = outcome.version.layout if outcome.version is not None else None
    return await stream(request, encode(message, layout, body), routes.FRAME, status=status)


async def stream(
    request: web.Request,
    buffers: Sequence[Buffer],
    content_type: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Send buffers as they lie, with a `Content-Length`.

    Small ones go out with the headers in one piece; joining them costs less than a second system call.
    """
    length = frame_length(buffers)
    if length <= limits.FIRST_PIECE_BYTES:
        body = b"".join(bytes(buffer) for buffer in buffers)
        return web.Response(body=body, status=status, headers=headers, content_type=content_type)
    response = web.StreamResponse(status=status, headers=headers)
    response.content_type = content_type
    response.content_length = length
    await response.prepare(request)
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=UNSENT_HIGH_BYTES)
    if request.method != hdrs.METH_HEAD:
        await streams.send(response, buffers)
    await response.write_eof()
    return response


def not_acceptable(accept: str) -> WireError:
    return WireError(
        Code.NOT_ACCEPTABLE,
        f"Accept: {accept[:80]!r} cannot be served; ask for {routes.FRAME}, {routes.SAFETENSORS} or, for one tensor, "
        f"{routes.NPY}",
    )
