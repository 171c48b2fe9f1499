"""Takes requests in: heads and bodies in the terms of `leeway.protocol.http`, within limits.

The one rule: nothing is allocated or awaited for a request before its declared size has been compared with the limit,
and what streams in is counted. Everything wrong is a `WireError` that names the field, the value and the limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion11, hdrs

from leeway.errors import BodyTooLarge, MalformedFrame, MalformedRequest, WireError
from leeway.protocol import documents, limits, routes
from leeway.protocol.codes import Code
from leeway.protocol.decoder import Decoder
from leeway.protocol.http.headers import ACCEPT, IF_NONE_MATCH, PREFER
from leeway.protocol.http.terms import HttpRequest
from leeway.transport import streams
from leeway.transport.http.connection import Connection
from leeway.transport.http.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from leeway.protocol.frames import Frame

# What a frame carries beside its body.
_HEAD_BYTES = limits.MAX_METADATA_BYTES + 1024


# Several of one name are one list (RFC 9110, 5.3).
_LISTS = ((hdrs.ACCEPT, ACCEPT), (PREFER, PREFER))

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def expected(request: web.Request) -> None:
    """`Expect: 100-continue`: nothing yet. The sender is told to go on when its headers have passed."""


def _admit(request: web.Request, limit_bytes: int) -> None:
    """Judge a body by its headers; whoever waits for that with the body is told to send it."""
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
    if encoding != "identity":
        raise WireError(Code.UNSUPPORTED_MEDIA, f"Content-Encoding {encoding[:40]!r} is not taken; send it plain")
    declared = request.content_length
    if declared is not None and declared > limit_bytes:
        raise BodyTooLarge(f"the body has {declared} bytes, the limit here is {limit_bytes}")
    waits = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.version == HttpVersion11
    if waits and request.transport is not None:
        request.transport.write(_CONTINUE)


def _paced(request: web.Request) -> Pace:
    protocol = request.protocol
    assert isinstance(protocol, Connection), "it came in at a listener of ours"
    return Pace(request.content, protocol.body_is_slow)


async def json_body(request: web.Request, limit_bytes: int = limits.MAX_JSON_BYTES) -> dict[str, Any]:
    """A small JSON object."""
    _admit(request, limit_bytes)
    with _paced(request):
        body = await streams.receive_bytes(request.content, limit_bytes)
    try:
        value = documents.parse(body)
    except ValueError as error:
        raise MalformedRequest(f"the body is no JSON object: {error}") from None
    if not isinstance(value, dict):
        raise MalformedRequest(f"the body must be a JSON object, not a {type(value).__name__}")
    return value


async def frame_body(request: web.Request, max_body_bytes: int, allocate: Callable[[int], memoryview]) -> Frame:
    """A frame, its body received into a buffer from `allocate`."""
    if request.content_type != routes.FRAME:
        raise WireError(
            Code.UNSUPPORTED_MEDIA,
            f"Content-Type is {request.content_type[:80]!r}; tensors come in frames, {routes.FRAME}",
        )
    _admit(request, max_body_bytes + _HEAD_BYTES)
    declared = request.content_length

    def checked(nbytes: int) -> memoryview:
        if declared is not None and nbytes > declared:
            raise MalformedFrame(f"truncated: a body of {nbytes} bytes is declared in a frame of {declared}")
        return allocate(nbytes)

    with _paced(request):
        return await streams.receive(request.content, Decoder(max_body_bytes, checked))


def head(request: web.Request) -> HttpRequest:
    """What the request's head says. A field of the query that is given twice counts as it was given first."""
    resource = request.match_info.route.resource
    assert resource is not None, "a handler has a route"
    given = request.headers
    headers = {name: ", ".join(values) for key, name in _LISTS if (values := given.getall(key, ()))}
    if hdrs.IF_NONE_MATCH in given:
        headers[IF_NONE_MATCH] = given[hdrs.IF_NONE_MATCH]
    return HttpRequest(request.method, resource.canonical, request.match_info, request.query, headers)
