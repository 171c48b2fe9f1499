"""One request over HTTP, one reply: where each message is on the wire (docs/reference/http.md).

The one rule: an exchange ends in an `Answer`, or in what `worker.failures` makes of its failure, within a time limit.
It decides nothing and keeps nothing; `worker.session` decides, `leeway.worker.client` keeps.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import hdrs

from leeway.errors import BodyTooLarge, WireError
from leeway.protocol import documents, routes, streams
from leeway.protocol.codes import Code
from leeway.protocol.decoder import Decoder
from leeway.protocol.fields import Fields
from leeway.protocol.frames import encode, frame_length
from leeway.protocol.limits import DEFAULT_MAX_BODY_BYTES, MAX_REPLY_JSON_BYTES, WRITE_CHUNK_BYTES
from leeway.protocol.replies import (
    Departed,
    Granted,
    Joined,
    NotYet,
    Offered,
    Passed,
    Pushed,
    PushPulled,
    Refused,
    Renewed,
    Staged,
)
from leeway.protocol.requests import Barrier, Heartbeat, Join, Leave, Offer, Pull, Push
from leeway.worker.failures import FAILURES, judge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from leeway.protocol.decoder import Allocate
    from leeway.protocol.frames import Buffer, Frame
    from leeway.protocol.replies import Reply
    from leeway.protocol.spans import Layout

Sent = Join | Leave | Heartbeat | Offer | Pull | Push | Barrier

CONNECT_SECONDS = 10.0

# The longest silence in a body either way, and between a complete request and its reply beyond the wait that it
# asked for. A server applies a push before it answers: a large model on a busy machine takes seconds, not this.
SILENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Tensors:
    """A body: what lies in `layout`, cut into contiguous buffers anywhere, padding (zeros) included. `values`: as in
    `Push`.

    The buffers must stay as they are until the request that carries them has had its end.
    """

    layout: Layout
    buffers: Sequence[Buffer]
    values: tuple[str, ...] = ()


@dataclass(slots=True)
class Traffic:
    """Seconds and bytes of one exchange, or of several added up.

    `send`: until the last byte was handed to the socket; `wait`: from there until the reply's first; `receive`:
    until its last.
    """

    send_seconds: float = 0.0
    wait_seconds: float = 0.0
    receive_seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0

    def copy(self) -> Traffic:
        return replace(self)

    def add(self, other: Traffic) -> None:
        self.send_seconds += other.send_seconds
        self.wait_seconds += other.wait_seconds
        self.receive_seconds += other.receive_seconds
        self.sent_bytes += other.sent_bytes
        self.received_bytes += other.received_bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, with the tensors that came along. `retry_after_seconds`: the server's wish."""

    reply: Reply
    traffic: Traffic
    frame: Frame | None = None
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """A request in HTTP's terms. `buffers`: a frame to send; `content`: JSON to send."""

    method: str
    path: str
    query: dict[str, str]
    content: bytes | None = None
    buffers: Sequence[Buffer] = ()
    wait_seconds: float | None = None


class Exchange:
    """Sends requests to one server."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        *,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self._http = http
        self._url = url
        self._silence_seconds = silence_seconds

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
        call = _call(request, tensors)
        decoder = Decoder(max_body_bytes, allocate) if allocate else Decoder(max_body_bytes)
        try:
            async with asyncio.timeout(limit_seconds):
                return await self._perform(request, call, decoder)
        except FAILURES as error:
            raise judge(error, self._url) from error

    async def read_json(self, path: str, query: dict[str, str]) -> Any:
        """GET a JSON document. Raises what `send` raises, or the server's `WireError`."""
        try:
            async with self._http.get(self._url + path, params=query, allow_redirects=False) as response:
                if response.status == 200:
                    return await _json(response)
                refused = await _refusal(response)
        except FAILURES as error:
            raise judge(error, self._url) from error
        raise refused.error

    async def _perform(self, request: Sent, call: _Call, decoder: Decoder) -> Answer:
        headers = {"Accept": f"{routes.FRAME}, application/json", "Accept-Encoding": "identity"}
        if call.wait_seconds is not None:
            headers["Prefer"] = f"wait={call.wait_seconds:g}"
        traffic = Traffic(sent_bytes=frame_length(call.buffers) or len(call.content or b""))
        began = sent = time.perf_counter()

        async def body() -> AsyncIterator[memoryview]:
            # aiohttp limits the silence of the other side once all is sent; until then this does.
            nonlocal sent
            loop = asyncio.get_running_loop()
            async for piece in streams.pieces(call.buffers):
                deadline.reschedule(loop.time() + self._silence_seconds)
                yield piece
            deadline.reschedule(None)
            sent = time.perf_counter()

        # Bytes as they are would go out in one piece.
        data: Any = call.content if len(call.content or b"") <= WRITE_CHUNK_BYTES else io.BytesIO(call.content or b"")
        if call.buffers:
            headers |= {"Content-Type": routes.FRAME, "Content-Length": str(traffic.sent_bytes)}
            data = body()
        elif call.content is not None:
            headers["Content-Type"] = "application/json"
        limits = aiohttp.ClientTimeout(
            total=None,
            connect=2 * CONNECT_SECONDS,
            sock_connect=CONNECT_SECONDS,
            sock_read=(call.wait_seconds or 0.0) + self._silence_seconds,
        )
        async with (
            asyncio.timeout(None) as deadline,
            self._http.request(
                call.method,
                self._url + call.path,
                params=call.query,
                headers=headers,
                data=data,
                timeout=limits,
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
        return Answer(reply, traffic, frame, _retry_after(response))


def _call(request: Sent, tensors: Tensors | None) -> _Call:
    match request:
        case Join():
            return _Call("POST", routes.WORKERS, {}, _packed(request.to_fields()))
        case Leave(life):
            return _Call("DELETE", routes.WORKER.format(rank=life.rank), _query(request.to_fields(), "rank"))
        case Heartbeat(life):
            return _Call("PUT", routes.LEASE.format(rank=life.rank), _query(request.to_fields(), "rank"))
        case Offer(specs, ask=True):
            content = _packed({"specs": [spec.to_row() for spec in specs], **request.to_fields()})
            return _Call("PUT", routes.PARAMS, {"ask": "1"}, content)
        case Offer():
            return _Call("PUT", routes.PARAMS, {}, buffers=_framed(request.to_fields(), tensors))
        case Pull():
            wait_seconds = request.wait_seconds
            return _Call("GET", routes.PARAMS, _query(request.to_fields()), wait_seconds=wait_seconds)
        case Push():
            query = {"pull": "1"} if request.pull else {}
            if request.pull and request.since is not None:
                query["since"] = str(request.since)
            buffers = _framed(request.to_fields(), tensors)
            return _Call("POST", routes.UPDATES, query, buffers=buffers, wait_seconds=request.wait_seconds)
        case Barrier():
            path = routes.BARRIER.format(name=request.name)
            content = _packed(request.to_fields())
            return _Call("POST", path, {}, content, wait_seconds=request.wait_seconds)


def _packed(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _framed(fields: dict[str, Any], tensors: Tensors | None) -> Sequence[Buffer]:
    return encode(fields, tensors.layout, tensors.buffers) if tensors else encode(fields)


def _query(fields: dict[str, Any], *without: str) -> dict[str, str]:
    return {name: str(value) for name, value in fields.items() if name not in without}


async def _read(request: Sent, response: aiohttp.ClientResponse, decoder: Decoder) -> tuple[Reply, Frame | None]:
    """Read what stands for a reply to this request. Raises `WireError` or `ValueError` when nothing does."""
    status = response.status
    if status >= 300 and status != 304:
        return await _refusal(response), None
    if status == 204:
        return NotYet.read(_header(response, routes.REASON_HEADER)), None
    match request:
        case Pull() if status == 304:
            return Granted.read(_header(response, routes.GRANT_HEADER)), None
        case Pull():
            frame = await streams.receive(response.content, decoder)
            return Granted.read(frame.message), frame
        case Push() if response.content_type == routes.FRAME:
            frame = await streams.receive(response.content, decoder)
            reply = _push_pulled(frame.message)
            return reply, frame if isinstance(reply.pulled, Granted) else None
    document = await _json(response)
    match request:
        case Join():
            return Joined.read(document), None
        case Leave(life):
            return Departed(life.rank), None
        case Heartbeat():
            return Renewed(Fields(document, "renewed").number("lease_seconds")), None
        case Offer():
            return Offered.read(document), None
        case Push():
            return (Staged if "missing" in document else Pushed).read(document), None
        case Barrier():
            return Passed.read(document), None


def _push_pulled(message: dict[str, Any]) -> PushPulled:
    pushed, pulled = Pushed.read(message.get("push")), message.get("pull")
    match message.get("pulled"):
        case "granted":
            return PushPulled(pushed, Granted.read(pulled))
        case "not-yet":
            return PushPulled(pushed, NotYet.read(pulled))
        case "refused":
            status = pulled.get("status", 500) if isinstance(pulled, dict) else 500
            return PushPulled(pushed, Refused(WireError.from_document(pulled, status)))
        case other:
            raise ValueError(f"'pulled' is {other!r}")


async def _json(response: aiohttp.ClientResponse) -> Any:
    return documents.parse(await streams.receive_bytes(response.content, MAX_REPLY_JSON_BYTES))


def _may_be_cut(response: aiohttp.ClientResponse) -> bool:
    """Whether only the end of the connection says where the body ends, so that its loss looks like a whole reply."""
    empty = response.status in (204, 304)
    return not empty and response.content_length is None and hdrs.TRANSFER_ENCODING not in response.headers


def _header(response: aiohttp.ClientResponse, name: str) -> Any:
    if name not in response.headers:
        raise ValueError(f"HTTP {response.status} without the header {name}")
    return documents.parse(response.headers[name])


async def _refusal(response: aiohttp.ClientResponse) -> Refused:
    status = response.status
    if response.content_type == routes.PROBLEM:
        return Refused(WireError.from_document(await _json(response), status))
    if status == 413:
        where = response.url.with_query(None)
        return Refused(BodyTooLarge(f"{where} answered HTTP 413: something before the server limits bodies"))
    # Not our server's words. What comes before it may be out of order for a while; else the address is wrong.
    code = Code.INTERNAL if status >= 500 or status in (408, 425, 429) else Code.NOT_FOUND
    moved = f", it points to {response.headers['Location']}" if "Location" in response.headers else ""
    detail = f"{response.url.with_query(None)} answered HTTP {status}{moved}; is that a Leeway server?"
    return Refused(WireError(code, detail))


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    # The form with a date is for caches and robots; nothing of ours sends it.
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None
