"""One request over HTTP, one reply: moves the bytes that `leeway.protocol.http` says a message is.

The one rule: an exchange ends in an `Answer`, or in what `worker.failures` makes of its failure, within a time limit.
It decides nothing and keeps nothing; `worker.session` decides, `leeway.worker.client` keeps.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import hdrs

from leeway.errors import BodyTooLarge, WireError
from leeway.protocol import documents, routes
from leeway.protocol.decoder import Decoder
from leeway.protocol.frames import encode, frame_length
from leeway.protocol.http.headers import retry_after_seconds
from leeway.protocol.http.replies import expect, read_refusal, read_reply
from leeway.protocol.http.requests import waits_seconds, write_request
from leeway.protocol.http.terms import Content, HttpReply
from leeway.protocol.limits import DEFAULT_MAX_BODY_BYTES, MAX_REPLY_JSON_BYTES, WRITE_CHUNK_BYTES
from leeway.protocol.pulls import Granted
from leeway.protocol.pushes import PushPulled
from leeway.transport import streams
from leeway.transport.channel import Answer, Traffic
from leeway.transport.credentials.credentials import NOTHING
from leeway.transport.failures import FAILURES, judge
from leeway.transport.memory.aligned import allocate_aligned

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Sequence

    from leeway.protocol.decoder import Allocate
    from leeway.protocol.frames import Buffer, Frame
    from leeway.protocol.http.terms import HttpRequest
    from leeway.protocol.messages import Reply
    from leeway.transport.channel import Sent, Tensors
    from leeway.transport.credentials.credentials import Credentials

CONNECT_SECONDS = 10.0

# How long an idle connection is kept, on either side. Longer than any step: it costs nothing, and a push must not begin
# with a handshake.
KEEPALIVE_SECONDS = 3600.0

# The longest silence in a body either way, and between a complete request and its reply beyond the wait that it
# asked for. A server applies a push before it answers: a large model on a busy machine takes seconds, not this.
SILENCE_SECONDS = 60.0


class Exchange:
    """Sends requests to one server: the `Channel` that is HTTP. To be made in a running loop.

    `credentials` go with each of them, and not on to another address. `tls`: how an https address is spoken with, where
    it is otherwise than they say. Raises `SettingError` for files of credentials that are not as they should be.
    """

    def __init__(
        self,
        url: str,
        *,
        silence_seconds: float = SILENCE_SECONDS,
        credentials: Credentials = NOTHING,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if tls is None and url.startswith("https:"):
            tls = credentials.to_client()
        # No limit of connections: a parked pull, a heartbeat and a status each have their own.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS, ssl=tls or True)
        self._http = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=credentials.headers,
        )
        self._url = url
        self._silence_seconds = silence_seconds

    async def close(self) -> None:
        await self._http.close()

    async def send(
        self,
        request: Sent,
        tensors: Tensors | None = None,
        *,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
        allocate: Allocate | None = None,
        limit_seconds: float | None = None,
    ) -> Answer:
        """Send one request and receive its reply. `limit_seconds`: for all of it together.

        `max_body_bytes` and `allocate` are for the body that is received. Raises `Lost` for what may pass,
        `SettingError` for what never will.
        """
        call = write_request(request)
        content, buffers = _packed(call, tensors)
        decoder = Decoder(max_body_bytes, allocate or allocate_aligned)
        try:
            async with asyncio.timeout(limit_seconds):
                return await self._perform(request, call, content, buffers, decoder)
        except FAILURES as error:
            raise judge(error, self._url) from error

    async def read_json(self, path: str, query: dict[str, str]) -> Any:
        """GET a JSON document. Raises what `send` raises, or the server's `WireError`."""
        try:
            async with self._http.get(
                self._url + path, params=query, timeout=self._limits(0.0), allow_redirects=False
            ) as response:
                if response.status == 200:
                    return await _json(response)
                problem = response.content_type == routes.PROBLEM
                content = Content.PROBLEM if problem else Content.NOTHING
                fields = await _json(response) if problem else None
                refused = read_refusal(HttpReply(response.status, response.headers, content, fields), _where(response))
        except FAILURES as error:
            raise judge(error, self._url) from error
        raise refused.error

    def _limits(self, waits_seconds: float) -> aiohttp.ClientTimeout:
        """`waits_seconds`: how long the server may keep the request waiting."""
        return aiohttp.ClientTimeout(
            total=None,
            connect=2 * CONNECT_SECONDS,
            sock_connect=CONNECT_SECONDS,
            sock_read=waits_seconds + self._silence_seconds,
        )

    async def _perform(
        self, request: Sent, call: HttpRequest, content: bytes, buffers: Sequence[Buffer], decoder: Decoder
    ) -> Answer:
        headers = {**call.headers, "Accept-Encoding": "identity"}
        traffic = Traffic(sent_bytes=frame_length(buffers) or len(content))
        began = sent = time.perf_counter()

        async def body() -> AsyncIterator[memoryview]:
            # aiohttp limits the silence of the other side once all is sent; until then this does.
            nonlocal sent
            loop = asyncio.get_running_loop()
            async for piece in streams.pieces(buffers):
                deadline.reschedule(loop.time() + self._silence_seconds)
                yield piece
            deadline.reschedule(None)
            sent = time.perf_counter()

        data: Any = None
        if call.content is Content.FRAME:
            headers |= {"Content-Type": routes.FRAME, "Content-Length": str(traffic.sent_bytes)}
            data = body()
        elif call.content is Content.JSON:
            headers["Content-Type"] = "application/json"
            # Bytes as they are would go out in one piece.
            data = content if len(content) <= WRITE_CHUNK_BYTES else io.BytesIO(content)
        async with (
            asyncio.timeout(None) as deadline,
            self._http.request(
                call.method,
                self._url + call.path,
                params=call.query,
                headers=headers,
                data=data,
                timeout=self._limits(waits_seconds(request)),
                allow_redirects=False,
            ) as response,
        ):
            answering = time.perf_counter()
            try:
                reply, frame = await _read(request, response, decoder)
            except (WireError, ValueError) as error:
                if _may_be_cut(response) and not isinstance(error, BodyTooLarge):
                    raise aiohttp.ClientPayloadError(f"the reply may have broken off: {error}") from error
                raise
            done = time.perf_counter()
        traffic.send_seconds, traffic.wait_seconds = sent - began, answering - sent
        traffic.receive_seconds = done - answering
        traffic.received_bytes = response.content.total_bytes
        return Answer(reply, traffic, frame, retry_after_seconds(response.headers))


def _packed(call: HttpRequest, tensors: Tensors | None) -> tuple[bytes, Sequence[Buffer]]:
    """The content as bytes: JSON, or a frame."""
    if call.content is Content.NOTHING:
        return b"", ()
    assert call.fields is not None
    if call.content is Content.JSON:
        return json.dumps(call.fields, separators=(",", ":")).encode(), ()
    return b"", encode(call.fields, tensors.layout, tensors.buffers) if tensors else encode(call.fields)


async def _read(request: Sent, response: aiohttp.ClientResponse, decoder: Decoder) -> tuple[Reply, Frame | None]:
    """Read what stands for a reply to this request. Raises `WireError` or `ValueError` when nothing does."""
    status, headers = response.status, response.headers
    match expect(request, status, response.content_type):
        case Content.FRAME:
            frame = await streams.receive(response.content, decoder)
            reply = read_reply(request, HttpReply(status, headers, Content.FRAME, frame.message))
            pulled = reply.pulled if isinstance(reply, PushPulled) else reply
            return reply, frame if isinstance(pulled, Granted) else None
        case Content.NOTHING as content:
            where = "" if status in (204, 304) else _where(response)
            return read_reply(request, HttpReply(status, headers, content), where), None
        case content:
            return read_reply(request, HttpReply(status, headers, content, await _json(response))), None


def _where(response: aiohttp.ClientResponse) -> str:
    return str(response.url.with_query(None))


async def _json(response: aiohttp.ClientResponse) -> Any:
    return documents.parse(await streams.receive_bytes(response.content, MAX_REPLY_JSON_BYTES))


def _may_be_cut(response: aiohttp.ClientResponse) -> bool:
    """Whether only the end of the connection says where the body ends, so that its loss looks like a whole reply."""
    empty = response.status in (204, 304)
    return not empty and response.content_length is None and hdrs.TRANSFER_ENCODING not in response.headers
