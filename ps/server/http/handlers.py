"""HTTP's side of the server: the requests of the protocol, and beside them documents and files, for people and other
programs.

The one rule: nothing is decided here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web
from prometheus_client.aiohttp import make_aiohttp_handler

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import routes
from leeway.protocol.codes import Code
from leeway.protocol.fields import Query
from leeway.protocol.http.headers import ACCEPT, accepted
from leeway.protocol.http.requests import read_head
from leeway.protocol.pulls import Granted, Pull
from leeway.protocol.pushes import Push
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.protocol.rights import Right
from leeway.protocol.tuning import SetPolicy
from leeway.ps.server.answering import answer
from leeway.ps.server.http.events import Events
from leeway.ps.server.http.page import Page
from leeway.ps.server.http.sessions import SessionRoutes
from leeway.ps.storage import downloads
from leeway.transport.http import receiving, sending
from leeway.transport.http.gate import CALLER
from leeway.transport.http.messages import Messages, Outgoing

if TYPE_CHECKING:
    import asyncio

    from leeway.protocol.frames import Frame
    from leeway.protocol.messages import Request
    from leeway.protocol.spans import Layout
    from leeway.ps.server.asking import Outcome
    from leeway.ps.server.http.sessions import Sessions
    from leeway.ps.server.runtime import Runtime
    from leeway.ps.server.saving import Saving
    from leeway.transport.http.counts import Counts
    from leeway.transport.http.gate import Gate


# Different selections of a group's tensors that are remembered: one for each stage of a model, and some for readers.
EXCERPTS = 128


class Handlers:
    def __init__(
        self,
        runtime: Runtime,
        saving: Saving,
        max_body_bytes: int,
        counts: Counts,
        gate: Gate,
        sessions: Sessions,
    ) -> None:
        self._session = SessionRoutes(gate, sessions)
        self._runtime = runtime
        self._saving = saving
        self._messages = Messages(
            self._answer, max_body_bytes=max_body_bytes, allocate=runtime.pool.take, counts=counts, gate=gate
        )
        self.events = Events(runtime.feed, counts, gate)
        self._page = Page()
        self._openapi = resources.files("leeway.ps.server.http").joinpath("openapi.yaml").read_bytes()

    def table(self) -> list[web.RouteDef]:
        return [
            *self._messages.routes(pull=self.pull),
            web.get(routes.POLICY, self.policy),
            web.get(routes.PREVIEW, self.preview),
            web.get(routes.OPTIMIZER, self.optimizer),
            web.get(routes.STATUS, self.status),
            web.get(routes.EVENTS, self.events.stream),
            web.post(routes.CHECKPOINTS, self.save),
            web.get(routes.CHECKPOINTS, self.checkpoints),
            web.get(routes.SESSION, self._session.show),
            web.post(routes.SESSION, self._session.begin),
            web.delete(routes.SESSION, self._session.end),
            web.get(routes.METRICS, make_aiohttp_handler(self._runtime.metrics.registry)),
            web.get(routes.LIVE, self.live),
            web.get(routes.READY, self.ready),
            web.get(routes.OPENAPI, self.openapi),
            web.get(routes.PAGE, self._page.index),
            web.get(routes.PAGE_FILE, self._page.file),
        ]

    # Messages.

    async def _answer(self, message: Request, frame: Frame | None, connection: asyncio.Transport | None) -> Outgoing:
        return self._outgoing(message, await answer(self._runtime, message, frame), connection)

    def _outgoing(self, message: Request, outcome: Outcome, connection: asyncio.Transport | None) -> Outgoing:
        """The version's body is lent to its reader, who is cut off if it pins the memory for too long."""
        if outcome.version is None:
            return Outgoing(outcome.reply)
        assert isinstance(message, Pull | Push), "only these are answered with a version"
        body = self._runtime.readers.lend(message.group, outcome.version, connection)
        layout = outcome.version.layout
        if outcome.keys is None:
            return Outgoing(outcome.reply, layout, [body])
        excerpt, stretches = _excerpt(layout, outcome.keys)
        return Outgoing(outcome.reply, excerpt, [body[stretch] for stretch in stretches])

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """A frame; or, for people and other programs, a file."""
        head = receiving.head(request)
        pull = read_head(head).read({}, ())
        assert isinstance(pull, Pull)
        self._messages.check_rank(request, pull)
        accept = accepted(head.headers.get(ACCEPT))
        if routes.FRAME not in accept:
            return await self._download(request, pull, accept)
        outcome = _unless_known(request, await answer(self._runtime, pull))
        if outcome.version is not None and (keys := _keys(request, pull.group, outcome.version.layout)) is not None:
            outcome = replace(outcome, keys=_of_its_own(keys, outcome.keys))
        outgoing = self._outgoing(pull, outcome, request.transport)
        return await sending.answered(request, outgoing.reply, outgoing.layout, outgoing.body)

    async def _download(self, request: web.Request, pull: Pull, accept: frozenset[str]) -> web.StreamResponse:
        if accept.isdisjoint((routes.SAFETENSORS, routes.NPY, "*/*", "application/*")):
            raise sending.not_acceptable(request.headers[hdrs.ACCEPT])
        outcome = _unless_known(request, await answer(self._runtime, pull))
        if not isinstance(outcome.reply, Granted) or outcome.version is None:
            return await sending.answered(request, outcome.reply)
        layout = outcome.version.layout
        keys = _keys(request, pull.group, layout)
        body = self._runtime.readers.lend(pull.group, outcome.version, request.transport)
        headers: dict[str, str] = {hdrs.ETAG: outcome.reply.version.etag}
        if routes.NPY in accept:
            if keys is None or len(keys) != 1:
                raise MalformedRequest("application/x-npy holds one tensor: name it with 'keys'")
            buffers = downloads.npy(layout.places[keys[0]], body)
            return await sending.stream(request, buffers, routes.NPY, headers=headers)
        buffers = downloads.safetensors(layout, body, keys)
        return await sending.stream(request, buffers, routes.SAFETENSORS, headers=headers)

    # The run.

    async def policy(self, request: web.Request) -> web.StreamResponse:
        return sending.small(self._runtime.tuning.policy(_group(request)))

    async def preview(self, request: web.Request) -> web.StreamResponse:
        query = {name: value for name, value in request.query.items() if name != "group"}
        wanted = SetPolicy.read(Query(query), _group(request))
        return web.json_response(self._runtime.tuning.preview(wanted).to_fields())

    async def optimizer(self, request: web.Request) -> web.StreamResponse:
        return sending.small(self._runtime.tuning.optimizer(_group(request)))

    async def status(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._runtime.status())

    async def save(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._saving.save("request"), status=201)

    async def checkpoints(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"checkpoints": self._saving.listing()})

    async def live(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"live": True})

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """Ready: takes requests, and there is something to pull."""
        waits_for = self._runtime.not_ready_because()
        if waits_for and not request[CALLER].may(Right.READER):
            waits_for = "not ready"  # what groups there are is nobody else's concern
        state: dict[str, Any] = {"ready": waits_for is None, "detail": waits_for or "ready"}
        return web.json_response(state, status=503 if waits_for else 200)

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._openapi, content_type="application/yaml")


def _group(request: web.Request) -> str:
    return request.query.get("group", DEFAULT_GROUP)


def _keys(request: web.Request, group: str, layout: Layout) -> list[str] | None:
    """The tensors that `keys` names, each once; None for all.

    Each value is the name of a tensor, commas and all, or else names with commas between.
    """
    if "keys" not in request.query:
        return None
    keys: dict[str, None] = {}
    for value in request.query.getall("keys"):
        for key in [value] if value in layout else value.split(","):
            if key not in layout:
                raise WireError(Code.UNKNOWN_TENSOR, f"there is no tensor {key[:120]!r} in group {group}")
            keys[key] = None
    return list(keys)


@lru_cache(maxsize=EXCERPTS)
def _excerpt(layout: Layout, keys: tuple[str, ...]) -> tuple[Layout, list[slice]]:
    try:
        return layout.excerpt(keys)
    except ValueError as error:
        raise WireError(Code.UNKNOWN_TENSOR, str(error)) from None


def _of_its_own(keys: list[str], declared: tuple[str, ...] | None) -> tuple[str, ...]:
    """What a stage asks for is among what it has declared."""
    if declared is not None and (strange := set(keys).difference(declared)):
        raise WireError(Code.UNKNOWN_TENSOR, f"tensor {min(strange)!r} is not among the keys that this stage declared")
    return tuple(keys)


def _unless_known(request: web.Request, outcome: Outcome) -> Outcome:
    """The outcome without its version, if `If-None-Match` (RFC 9110, 13.1.2) has it in a list, or is `*`."""
    reply = outcome.reply
    if isinstance(reply, Granted) and outcome.version is not None:
        known = {tag.value for tag in request.if_none_match or ()}
        if known & {"*", str(reply.version)}:
            return replace(outcome, reply=replace(reply, unchanged=True), version=None)
    return outcome
