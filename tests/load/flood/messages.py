"""What a simulated worker says and hears: the session's messages as HTTP, and back.

The one rule: the same messages in the same form as `worker.exchange` sends and reads them, without its client library.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from leeway.errors import WireError
from leeway.protocol import routes
from leeway.protocol.frames import encode, frame_length
from leeway.protocol.replies import Departed, Granted, Joined, NotYet, Offered, Pushed, PushPulled, Refused
from leeway.protocol.requests import Join, Leave, Offer, Pull, Push

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.protocol.frames import Buffer
    from leeway.protocol.replies import Reply
    from leeway.worker.exchange import Tensors
    from leeway.worker.session import Ask
    from tests.load.flood.connection import Response


def request(ask: Ask, tensors: Tensors, host: str) -> tuple[bytes, Sequence[Buffer]]:
    """Head and body of a request; `tensors` is what an offer or a push carries."""
    match ask:
        case Join():
            return _with_json("POST", routes.WORKERS, host, ask.to_fields())
        case Leave(life):
            named = urlencode({"epoch": life.epoch, "incarnation": life.incarnation})
            return head("DELETE", f"{routes.WORKER.format(rank=life.rank)}?{named}", host), ()
        case Offer(specs, ask=True):
            return _with_json("PUT", f"{routes.PARAMS}?ask=1", host, {"specs": [spec.to_row() for spec in specs]})
        case Offer():
            return _with_frame("PUT", routes.PARAMS, host, encode({}, tensors.layout, tensors.buffers), None)
        case Pull():
            target = f"{routes.PARAMS}?{urlencode(ask.to_fields())}"
            return head("GET", target, host, *_preferring(ask.wait_seconds)), ()
        case Push():
            query = {"pull": "1"} if ask.pull else {}
            if ask.pull and ask.since is not None:
                query["since"] = str(ask.since)
            frame = encode(ask.to_fields(), tensors.layout, tensors.buffers)
            return _with_frame("POST", f"{routes.UPDATES}?{urlencode(query)}", host, frame, ask.wait_seconds)


def reply(ask: Ask, response: Response) -> Reply:
    """What the response says. Raises `WireError` or `ValueError` when it is no reply to that."""
    if response.status >= 300 and response.status != 304:
        return Refused(WireError.from_document(_document(response), response.status))
    if response.status == 204:
        return NotYet.read(json.loads(response.headers[routes.REASON_HEADER.lower()]))
    match ask:
        case Pull() if response.status == 304:
            return Granted.read(json.loads(response.headers[routes.GRANT_HEADER.lower()]))
        case Pull() if response.frame is not None:
            return Granted.read(response.frame.message)
        case Push() if response.frame is not None:
            return _push_pulled(response.frame.message)
        case Push():
            return Pushed.read(_document(response))
        case Join():
            return Joined.read(_document(response))
        case Offer():
            return Offered.read(_document(response))
        case Leave(life):
            return Departed(life.rank)
        case _:
            raise ValueError(f"HTTP {response.status} is no answer to {ask}")


def head(method: str, target: str, host: str, *headers: str) -> bytes:
    """The head of a request: its first line, and headers."""
    accept = f"Accept: {routes.FRAME}, application/json"
    return "\r\n".join((f"{method} {target} HTTP/1.1", f"Host: {host}", accept, *headers, "", "")).encode()


def _with_json(method: str, target: str, host: str, fields: object) -> tuple[bytes, Sequence[Buffer]]:
    content = json.dumps(fields).encode()
    length = f"Content-Length: {len(content)}"
    return head(method, target, host, "Content-Type: application/json", length), (content,)


def _with_frame(
    method: str, target: str, host: str, frame: Sequence[Buffer], wait_seconds: float | None
) -> tuple[bytes, Sequence[Buffer]]:
    length = f"Content-Length: {frame_length(frame)}"
    return head(method, target, host, f"Content-Type: {routes.FRAME}", length, *_preferring(wait_seconds)), frame


def _preferring(wait_seconds: float | None) -> tuple[str, ...]:
    return () if wait_seconds is None else (f"Prefer: wait={wait_seconds:g}",)


def _document(response: Response) -> object:
    return json.loads(response.content) if response.content else None


def _push_pulled(message: dict[str, object]) -> PushPulled:
    pushed, pulled = Pushed.read(message["push"]), message["pull"]
    match message["pulled"]:
        case "granted":
            return PushPulled(pushed, Granted.read(pulled))
        case "not-yet":
            return PushPulled(pushed, NotYet.read(pulled))
        case _:
            return PushPulled(pushed, Refused(WireError.from_document(pulled, 500)))
