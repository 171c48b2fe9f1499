"""Requests to HTTP and back: method, route, query, headers, content.

The one rule: a request is read in two steps, because of what is wrong in its head a sender is told before its body is
taken. What a sender wrote with `write_request` is read by `read_head` and what that awaits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, assert_never

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import limits, routes
from leeway.protocol.barriers import Barrier
from leeway.protocol.codes import Code
from leeway.protocol.fields import Fields, Query
from leeway.protocol.handovers import Handover, Label
from leeway.protocol.http.headers import ACCEPT, IF_NONE_MATCH, PREFER, prefer_wait, wait_seconds
from leeway.protocol.http.terms import NONE, Awaited, Content, HttpRequest
from leeway.protocol.lives import Life
from leeway.protocol.membership import Heartbeat, Join, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push
from leeway.protocol.quarantine import Quarantine, Release
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.protocol.tensors import TensorSpec
from leeway.protocol.tuning import SetOptimizer, SetPolicy
from leeway.protocol.versions import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from leeway.protocol.messages import Request, StageRequest

_ACCEPT = f"{routes.FRAME}, application/json"
_HEADERS: Final[Mapping[str, str]] = {ACCEPT: _ACCEPT}


# Out.


def write_request(request: Request | StageRequest) -> HttpRequest:
    match request:
        case Pull():
            headers = _waiting(request.wait_seconds)
            return HttpRequest("GET", routes.PARAMS, query=_query(request.to_fields()), headers=headers)
        case Push():
            headers = _waiting(request.wait_seconds)
            return _framed("POST", routes.UPDATES, request.to_fields(), query=_wanted(request), headers=headers)
        case Join():
            headers = _waiting(request.wait_seconds)
            return _json("POST", routes.WORKERS, request.to_fields(), headers=headers)
        case Leave(life):
            return HttpRequest("DELETE", routes.WORKER, *_named(life), _HEADERS)
        case Heartbeat(life):
            return HttpRequest("PUT", routes.LEASE, *_named(life), _HEADERS)
        case Offer(specs, ask=True):
            fields = {"specs": [spec.to_row() for spec in specs], **request.to_fields()}
            return _json("PUT", routes.PARAMS, fields, query={"ask": "1"})
        case Offer():
            return _framed("PUT", routes.PARAMS, request.to_fields())
        case Barrier(name=name):
            headers = _waiting(request.wait_seconds)
            return _json("POST", routes.BARRIER, request.to_fields(), places={"name": name}, headers=headers)
        case SetPolicy(group=group):
            return _json("PUT", routes.POLICY, request.to_fields(), query={"group": group})
        case SetOptimizer(group, settings):
            return _json("PUT", routes.OPTIMIZER, dict(settings), query={"group": group})
        case Quarantine(rank):
            return _json("PUT", routes.QUARANTINE, request.to_fields(), places={"rank": rank})
        case Release(rank):
            return HttpRequest("DELETE", routes.QUARANTINE, {"rank": rank}, NONE, _HEADERS)
        case Handover(label):
            return _framed("POST", routes.HANDOVERS, request.to_fields(), query=_query(label.to_fields()))
        case _:
            assert_never(request)


def waits_seconds(request: Request | StageRequest) -> float:
    """How long the answer may take because the asker wants to wait."""
    return (request.wait_seconds or 0.0) if isinstance(request, Join | Pull | Push | Barrier) else 0.0


def _json(
    method: str,
    route: str,
    fields: Mapping[str, Any],
    *,
    places: Mapping[str, str] = NONE,
    query: Mapping[str, str] = NONE,
    headers: Mapping[str, str] = _HEADERS,
) -> HttpRequest:
    return HttpRequest(method, route, places, query, headers, Content.JSON, fields)


def _framed(
    method: str,
    route: str,
    message: Mapping[str, Any],
    *,
    query: Mapping[str, str] = NONE,
    headers: Mapping[str, str] = _HEADERS,
) -> HttpRequest:
    return HttpRequest(method, route, NONE, query, headers, Content.FRAME, message)


def _waiting(seconds: float | None) -> Mapping[str, str]:
    return _HEADERS if seconds is None else {ACCEPT: _ACCEPT, PREFER: prefer_wait(seconds)}


def _wanted(push: Push) -> Mapping[str, str]:
    """What is of the request and not of the update."""
    if not push.pull:
        return NONE
    return {"pull": "1"} if push.since is None else {"pull": "1", "since": str(push.since)}


def _query(fields: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in fields.items()}


def _named(life: Life) -> tuple[dict[str, str], dict[str, str]]:
    query = _query(life.to_fields())
    return {"rank": query.pop("rank")}, query


# In.


def read_head(head: HttpRequest) -> Awaited:
    """What a request is as far as its head says: what `content` and `fields` of it are is not looked at.

    Raises `WireError`.
    """
    read = _READERS.get((head.method, head.route))
    if read is None:
        raise _no_request(head)
    return read(head)


def read_label(head: HttpRequest) -> Label:
    """What a stage is about to be handed; with the frame it makes a `Handover`. Raises `WireError`."""
    if (head.method, head.route) != ("POST", routes.HANDOVERS):
        raise _no_request(head)
    return Label.read(Query(head.query))


def _no_request(head: HttpRequest) -> WireError:
    return WireError(Code.NOT_FOUND, f"{head.method} {head.path[:120]!r} is no request of the protocol")


def _join(head: HttpRequest) -> Awaited:
    wait = wait_seconds(head.headers.get(PREFER))
    return Awaited(Content.JSON, lambda fields, specs: Join.read(Fields(fields, "join"), wait), limits.MAX_JSON_BYTES)


def _life(head: HttpRequest) -> Life:
    return Life.read(Query({**head.query, "rank": head.places["rank"]}))


def _leave(head: HttpRequest) -> Awaited:
    leave = Leave(_life(head))
    return Awaited(Content.NOTHING, lambda fields, specs: leave)


def _heartbeat(head: HttpRequest) -> Awaited:
    heartbeat = Heartbeat(_life(head))
    return Awaited(Content.NOTHING, lambda fields, specs: heartbeat)


def _barrier(head: HttpRequest) -> Awaited:
    def read(fields: Mapping[str, Any], specs: tuple[TensorSpec, ...]) -> Barrier:
        wait = wait_seconds(head.headers.get(PREFER))
        return Barrier.read(Fields(fields, "barrier"), head.places["name"], wait)

    return Awaited(Content.JSON, read, limits.MAX_CONTROL_BYTES)


def _offer(head: HttpRequest) -> Awaited:
    if Query(head.query).flag("ask"):
        return Awaited(Content.JSON, _question, limits.MAX_REPLY_JSON_BYTES)
    return Awaited(Content.FRAME, _values)


def _question(fields: Mapping[str, Any], specs: tuple[TensorSpec, ...]) -> Offer:
    offered = Fields(fields, "offer")
    specs = tuple(TensorSpec.read(row) for row in offered.listing("specs", limits.MAX_TENSORS))
    names = set[str]()
    for spec in specs:
        if spec.name in names:
            raise WireError(Code.DUPLICATE_TENSOR, f"tensor {spec.name!r} is there twice", tensor=spec.name)
        names.add(spec.name)
    return Offer.read(offered, specs, ask=True)


def _values(fields: Mapping[str, Any], specs: tuple[TensorSpec, ...]) -> Offer:
    if not specs:
        raise MalformedRequest("the offer carries no tensor")
    return Offer.read(Fields(fields, "offer"), specs, ask=False)


def _pull(head: HttpRequest) -> Awaited:
    pull = Pull.read(Query(head.query), wait_seconds(head.headers.get(PREFER)))
    etag = head.headers.get(IF_NONE_MATCH)
    if etag is not None and pull.since is None:
        pull = _since(pull, etag)
    return Awaited(Content.NOTHING, lambda fields, specs: pull)


def _since(pull: Pull, etag: str) -> Pull:
    try:
        return replace(pull, since=Version.parse(etag))
    except MalformedRequest:
        return pull  # somebody else's tag: it matches nothing


def _push(head: HttpRequest) -> Awaited:
    query = Query(head.query)
    wait = wait_seconds(head.headers.get(PREFER))
    since = Version.parse(query.text("since")) if "since" in query else None

    def read(fields: Mapping[str, Any], specs: tuple[TensorSpec, ...]) -> Push:
        keys = tuple(spec.name for spec in specs)
        pull = query.flag("pull")
        return Push.read(Fields(fields, "push"), keys, pull=pull, since=since, wait_seconds=wait)

    return Awaited(Content.FRAME, read)


def _tuned(head: HttpRequest) -> str:
    """The group whose policy or optimizer is set."""
    Query(head.query).only("group")
    return head.query.get("group", DEFAULT_GROUP)


def _policy(head: HttpRequest) -> Awaited:
    group = _tuned(head)
    return Awaited(
        Content.JSON, lambda fields, specs: SetPolicy.read(Fields(fields, "policy"), group), limits.MAX_CONTROL_BYTES
    )


def _optimizer(head: HttpRequest) -> Awaited:
    group = _tuned(head)
    return Awaited(Content.JSON, lambda fields, specs: SetOptimizer(group, fields), limits.MAX_CONTROL_BYTES)


def _quarantine(head: HttpRequest) -> Awaited:
    Query(head.query).only()
    return Awaited(
        Content.JSON,
        lambda fields, specs: Quarantine.read(head.places, Fields(fields, "quarantine")),
        limits.MAX_CONTROL_BYTES,
    )


def _release(head: HttpRequest) -> Awaited:
    Query(head.query).only()
    release = Release.read(head.places)
    return Awaited(Content.NOTHING, lambda fields, specs: release)


_READERS: Final[Mapping[tuple[str, str], Callable[[HttpRequest], Awaited]]] = {
    ("POST", routes.WORKERS): _join,
    ("DELETE", routes.WORKER): _leave,
    ("PUT", routes.LEASE): _heartbeat,
    ("PUT", routes.PARAMS): _offer,
    ("GET", routes.PARAMS): _pull,
    ("HEAD", routes.PARAMS): _pull,
    ("POST", routes.UPDATES): _push,
    ("POST", routes.BARRIER): _barrier,
    ("PUT", routes.POLICY): _policy,
    ("PUT", routes.OPTIMIZER): _optimizer,
    ("PUT", routes.QUARANTINE): _quarantine,
    ("DELETE", routes.QUARANTINE): _release,
}
