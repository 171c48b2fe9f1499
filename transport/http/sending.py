"""Sends replies out, in the terms of `leeway.protocol.http`; versions become streamed bodies.

The one rule: a version's bytes go out as views of its immutable memory, never through a copy, and whoever sends them
holds a lease until the transport has let go of the last view.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from leeway.errors import WireError
from leeway.protocol import limits, routes
from leeway.protocol.codes import Code
from leeway.protocol.frames import encode, frame_length
from leeway.protocol.http.replies import write_reply
from leeway.protocol.http.terms import Content
from leeway.protocol.refusals import Refused
from leeway.transport import streams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leeway.protocol.frames import Buffer
    from leeway.protocol.http.terms import HttpReply
    from leeway.protocol.messages import Reply
    from leeway.protocol.spans import Layout

# How much may lie unsent in a transport before a writer is held up: a few pieces, so that the socket never runs dry.
UNSENT_HIGH_BYTES = 4 * 1024 * 1024


def problem(error: WireError, headers: Mapping[str, str] | None = None) -> web.Response:
    """A problem document (RFC 9457)."""
    return _small(write_reply(Refused(error)), headers)


def written(error: WireError) -> bytes:
    """A whole answer with a problem document, for who will be closed after it and speaks no more than HTTP/1.1."""
    answer = write_reply(Refused(error))
    body = json.dumps(answer.fields).encode()
    head = (
        f"HTTP/1.1 {answer.status} {error.code.replace('-', ' ')}\r\n"
        f"Content-Type: {answer.content.value}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def small(reply: Reply) -> web.Response:
    """A reply without tensors. A refusal is raised: whoever counts refusals makes a problem of it."""
    if isinstance(reply, Refused):
        raise reply.error
    answer = write_reply(reply)
    assert answer.content is not Content.FRAME, "these carry tensors"
    return _small(answer)


def _small(answer: HttpReply, headers: Mapping[str, str] | None = None) -> web.Response:
    headers = {**(headers or {}), **answer.headers}
    if answer.content is Content.NOTHING:
        return web.Response(status=answer.status, headers=headers)
    media_type = answer.content.value
    return web.json_response(answer.fields, status=answer.status, content_type=media_type, headers=headers)


async def answered(
    request: web.Request, reply: Reply, layout: Layout | None = None, body: Sequence[memoryview] = ()
) -> web.StreamResponse:
    """Any reply. `body`: what lies in `layout`, where tensors go along."""
    if isinstance(reply, Refused):
        raise reply.error
    answer = write_reply(reply)
    if answer.content is not Content.FRAME:
        return _small(answer)
    buffers = encode(answer.fields, layout, body)
    return await stream(request, buffers, routes.FRAME, status=answer.status, headers=answer.headers)


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
