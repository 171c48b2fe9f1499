"""What a simulated worker says and hears: the session's messages as bytes of HTTP, and back.

The one rule: the same mapping as `worker.exchange` goes by, without its client library.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from multidict import CIMultiDict

from leeway.protocol import routes
from leeway.protocol.frames import encode, frame_length
from leeway.protocol.http.headers import ACCEPT
from leeway.protocol.http.replies import expect, read_reply
from leeway.protocol.http.requests import write_request
from leeway.protocol.http.terms import Content, HttpReply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.protocol.frames import Buffer
    from leeway.protocol.messages import Reply
    from leeway.transport.channel import Tensors
    from leeway.worker.session.course import Ask
    from tests.load.flood.connection import Response


def request(ask: Ask, tensors: Tensors, host: str) -> tuple[bytes, Sequence[Buffer]]:
    """Head and body of a request; `tensors` is what an offer or a push carries."""
    call = write_request(ask)
    target = f"{call.path}?{urlencode(call.query)}" if call.query else call.path
    headers = [f"{name}: {value}" for name, value in call.headers.items() if name != ACCEPT]
    body: Sequence[Buffer] = ()
    match call.content:
        case Content.JSON:
            body = (json.dumps(call.fields).encode(),)
        case Content.FRAME:
            body = encode(call.fields or {}, tensors.layout, tensors.buffers)
    if call.content is not Content.NOTHING:
        headers += [f"Content-Type: {call.content.value}", f"Content-Length: {frame_length(body)}"]
    return head(call.method, target, host, *headers), body


def reply(ask: Ask, response: Response) -> Reply:
    """What the response says. Raises `WireError` or `ValueError` when it is no reply to that."""
    media_type, _, _ = response.headers.get("content-type", "").partition(";")
    content = expect(ask, response.status, media_type.strip())
    match content:
        case Content.NOTHING:
            return read_reply(ask, HttpReply(response.status, CIMultiDict(response.headers)))
        case Content.FRAME:
            if response.frame is None:
                raise ValueError(f"HTTP {response.status} without a frame is no answer to {ask}")
            fields = response.frame.message
        case _:
            fields = json.loads(response.content) if response.content else None
    return read_reply(ask, HttpReply(response.status, {}, content, fields))


def head(method: str, target: str, host: str, *headers: str) -> bytes:
    """The head of a request: its first line, and headers."""
    accept = f"Accept: {routes.FRAME}, application/json"
    return "\r\n".join((f"{method} {target} HTTP/1.1", f"Host: {host}", accept, *headers, "", "")).encode()
