"""Replies to HTTP and back: status, headers, content.

The one rule: what was asked says how to read what is answered; the head of the answer alone says what content to
receive, and whether a reply stands there that is not the server's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from leeway.errors import BodyTooLarge, WireError
from leeway.protocol import routes
from leeway.protocol.barriers import Barrier, Passed
from leeway.protocol.codes import Code
from leeway.protocol.handovers import Handover, Taken
from leeway.protocol.http.headers import ETAG, LOCATION, RETRY_AFTER, RETRY_AFTER_SECONDS, compact, fields_in
from leeway.protocol.http.terms import NONE, Content, HttpReply
from leeway.protocol.membership import Departed, Heartbeat, Join, Joined, Leave, Renewed
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Disposition, Push, Pushed, PushPulled, Staged
from leeway.protocol.quarantine import Quarantine, QuarantineState, Release
from leeway.protocol.refusals import Refused
from leeway.protocol.tuning import OptimizerState, PolicyState, SetOptimizer, SetPolicy

if TYPE_CHECKING:
    from leeway.protocol.messages import Reply, Request, StageRequest

_AGAIN = str(RETRY_AFTER_SECONDS)


# Out.


def write_reply(reply: Reply) -> HttpReply:
    match reply:
        case Granted(unchanged=True):
            headers = {ETAG: reply.version.etag, routes.GRANT_HEADER: compact(reply.to_fields())}
            return HttpReply(304, headers)
        case Granted():
            return HttpReply(200, {ETAG: reply.version.etag}, Content.FRAME, reply.to_fields())
        case PushPulled(pushed=Pushed(disposition=Disposition.HELD)):
            return HttpReply(202, NONE, Content.FRAME, reply.to_fields())
        case PushPulled():
            return HttpReply(200, NONE, Content.FRAME, reply.to_fields())
        case NotYet():
            return HttpReply(204, {RETRY_AFTER: _AGAIN, routes.REASON_HEADER: compact(reply.to_fields())})
        case Refused(error):
            again = error.facts.get("retry_after_seconds", RETRY_AFTER_SECONDS)
            headers = {RETRY_AFTER: str(again)} if error.status in (429, 503) else {}
            return HttpReply(error.status, headers, Content.PROBLEM, reply.to_fields())
        case Pushed(disposition=Disposition.HELD) | Staged():
            return HttpReply(202, NONE, Content.JSON, reply.to_fields())
        case _:
            return HttpReply(200, NONE, Content.JSON, reply.to_fields())


# In.


def expect(request: Request | StageRequest, status: int, media_type: str) -> Content:
    """What content to receive of an answer with this head."""
    if _refuses(status):
        return Content.PROBLEM if media_type == routes.PROBLEM else Content.NOTHING
    match request:
        case _ if status == 204:
            return Content.NOTHING
        case Pull():
            return Content.NOTHING if status == 304 else Content.FRAME
        case Push() if media_type == routes.FRAME:
            return Content.FRAME
        case _:
            return Content.JSON


def read_reply(request: Request | StageRequest, answer: HttpReply, where: str = "the server") -> Reply:
    """What stands for a reply to this request. `where`: who answered, for people.

    Raises `WireError` or `ValueError` when nothing does.
    """
    if _refuses(answer.status):
        return read_refusal(answer, where)
    if answer.status == 204:
        return NotYet.read(fields_in(answer.headers, routes.REASON_HEADER, answer.status))
    fields = answer.fields
    match request:
        case Pull() if answer.status == 304:
            return Granted.read(fields_in(answer.headers, routes.GRANT_HEADER, answer.status))
        case Pull():
            return Granted.read(fields)
        case Push() if answer.content is Content.FRAME:
            return PushPulled.read(fields)
        case Push():
            return Staged.read(fields) if isinstance(fields, dict) and "missing" in fields else Pushed.read(fields)
        case Join():
            return Joined.read(fields)
        case Leave():
            return Departed.read(fields)
        case Heartbeat():
            return Renewed.read(fields)
        case Offer():
            return Offered.read(fields)
        case Barrier():
            return Passed.read(fields)
        case SetPolicy():
            return PolicyState.read(fields)
        case SetOptimizer():
            return OptimizerState.read(fields)
        case Quarantine() | Release():
            return QuarantineState.read(fields)
        case Handover():
            return Taken.read(fields)
        case _:
            assert_never(request)


def read_refusal(answer: HttpReply, where: str = "the server") -> Refused:
    status = answer.status
    if answer.content is Content.PROBLEM:
        return Refused.read(answer.fields, status)
    if status == 413:
        return Refused(BodyTooLarge(f"{where} answered HTTP 413: something before the server limits bodies"))
    # Not our server's words. What comes before it may be out of order for a while; else the address is wrong.
    code = Code.INTERNAL if _may_pass(status) else Code.NOT_FOUND
    moved = f", it points to {answer.headers[LOCATION]}" if LOCATION in answer.headers else ""
    return Refused(WireError(code, f"{where} answered HTTP {status}{moved}; is that a Leeway server?"))


def _may_pass(status: int) -> bool:
    """RFC 9110, 15.5 and 15.6; RFC 6585; RFC 8470. Not so: 501, a server that knows no POST or PUT, and 505."""
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))


def _refuses(status: int) -> bool:
    return status >= 300 and status != 304
