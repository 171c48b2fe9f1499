"""A second driver of the mapping: a client's requests reach a runtime of the same process, without a socket.

Between the two sides stand heads and bytes alone, as they would on a wire. `losing` takes each request and says what is
lost of its exchange.
"""

import asyncio
import json
from enum import Enum

from leeway.errors import WireError
from leeway.protocol import documents
from leeway.protocol.decoder import Decoder
from leeway.protocol.frames import encode, flat
from leeway.protocol.http.headers import retry_after_seconds
from leeway.protocol.http.replies import expect, read_reply, write_reply
from leeway.protocol.http.requests import read_head, write_request
from leeway.protocol.http.terms import Content, HttpReply
from leeway.protocol.limits import DEFAULT_MAX_BODY_BYTES
from leeway.protocol.pulls import Granted
from leeway.protocol.pushes import PushPulled
from leeway.protocol.refusals import Refused
from leeway.ps.server.answering import answer
from leeway.transport.channel import Answer, Traffic
from leeway.transport.failures import Lost
from leeway.transport.memory.aligned import allocate_aligned


class Loss(Enum):
    NOTHING = "nothing"
    REQUEST = "request"
    REPLY = "reply"


class MemoryChannel:
    """The worker's end."""

    def __init__(self, runtime, losing=lambda request: Loss.NOTHING):
        self._runtime = runtime
        self._losing = losing

    async def send(
        self, request, tensors=None, *, max_body_bytes=DEFAULT_MAX_BODY_BYTES, allocate=None, limit_seconds=None
    ):
        loss = self._losing(request)
        call = write_request(request)
        layout, buffers = (tensors.layout, tensors.buffers) if tensors else (None, ())
        sent = packed(call.content, call.fields, layout, buffers)
        if loss is Loss.REQUEST:
            raise Lost(f"{request} was lost")
        head = call._replace(content=Content.NOTHING, fields=None)
        async with asyncio.timeout(limit_seconds):
            answered, media_type, received = await serve(self._runtime, head, sent)
        if loss is Loss.REPLY:
            raise Lost(f"the reply to {request} was lost")
        content = expect(request, answered.status, media_type)
        fields, frame = unpacked(content, received, max_body_bytes, allocate or allocate_aligned)
        reply = read_reply(request, answered._replace(content=content, fields=fields))
        pulled = reply.pulled if isinstance(reply, PushPulled) else reply
        came_along = frame if isinstance(pulled, Granted) else None
        return Answer(reply, Traffic(), came_along, retry_after_seconds(answered.headers))

    async def read_json(self, path, query):
        raise Lost(f"no documents here: {path}")

    async def close(self):
        pass


async def serve(runtime, head, body):
    """The server's end: the head of the reply, its media type, its bytes."""
    version = None
    try:
        awaited = read_head(head)
        fields, frame = unpacked(awaited.content, body, DEFAULT_MAX_BODY_BYTES, runtime.pool.take)
        message = awaited.read(fields or {}, frame.specs if frame else ())
        outcome = await answer(runtime, message, frame)
        reply, version = outcome.reply, outcome.version
    except WireError as error:
        reply = Refused(error)
    written = write_reply(reply)
    layout, buffers = (version.layout, [version.body]) if version is not None else (None, ())
    sent = packed(written.content, written.fields, layout, buffers)
    return HttpReply(written.status, written.headers), written.content.value or "", sent


def packed(content, fields, layout, buffers):
    """The bytes of a content, in pieces."""
    match content:
        case Content.NOTHING:
            return []
        case Content.FRAME:
            return [bytes(flat(buffer)) for buffer in encode(fields, layout, buffers)]
        case _:
            return [json.dumps(fields).encode()]


def unpacked(content, pieces, max_body_bytes, allocate):
    """The fields, and the frame if there is one."""
    match content:
        case Content.NOTHING:
            return None, None
        case Content.FRAME:
            decoder = Decoder(max_body_bytes, allocate)
            for piece in pieces:
                assert decoder.feed(piece) == len(piece)
            decoder.end()
            return decoder.frame.message, decoder.frame
        case _:
            return documents.parse(b"".join(pieces)), None
