"""One handler a route: read the request, ask the runtime, render the reply. Nothing is decided here.

The one rule: a push is judged before its tensors are looked at, so that a client of an old epoch is told so instead of
being told that its tensors are unknown.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web
from prometheus_client.aiohttp import make_aiohttp_handler

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import limits, routes
from leeway.protocol.codes import Code
from leeway.protocol.fields import Fields, Query
from leeway.protocol.replies import Granted
from leeway.protocol.requests import (
    DEFAULT_GROUP,
    Barrier,
    Heartbeat,
    Join,
    Leave,
    Life,
    Offer,
    Pull,
    Push,
    SetPolicy,
    UpdateKind,
)
from leeway.protocol.tensors import TensorSpec
from leeway.protocol.versions import Version
from leeway.ps.core.deduplication import Fresh
from leeway.ps.server import admission, rendering
from leeway.ps.server.events import Events
from leeway.ps.server.page import Page
from leeway.ps.storage import downloads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from leeway.protocol.frames import Frame
    from leeway.protocol.spans import Layout
    from leeway.ps.server.runtime import Outcome, Runtime
    from leeway.ps.server.saving import Saving

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Handlers:
    def __init__(self, runtime: Runtime, saving: Saving, max_body_bytes: int) -> None:
        self._runtime = runtime
        self._saving = saving
        self._max_body_bytes = max_body_bytes
        self.events = Events(runtime.feed, runtime.metrics, runtime.listeners)
        self._page = Page()
        self._openapi = resources.files("leeway.ps.server").joinpath("openapi.yaml").read_bytes()

    def table(self) -> list[web.RouteDef]:
        return [
            web.post(routes.WORKERS, self.join, expect_handler=admission.expected),
            web.delete(routes.WORKER, self.leave),
            web.put(routes.LEASE, self.heartbeat),
            web.put(routes.PARAMS, self.offer, expect_handler=admission.expected),
            web.get(routes.PARAMS, self.pull),
            web.post(routes.UPDATES, self.push, expect_handler=admission.expected),
            web.post(routes.BARRIER, self.barrier, expect_handler=admission.expected),
            web.get(routes.POLICY, self.policy),
            web.put(routes.POLICY, self.set_policy, expect_handler=admission.expected),
            web.get(routes.OPTIMIZER, self.optimizer),
            web.put(routes.OPTIMIZER, self.set_optimizer, expect_handler=admission.expected),
            web.get(routes.STATUS, self.status),
            web.get(routes.EVENTS, self.events.stream),
            web.post(routes.CHECKPOINTS, self.save),
            web.get(routes.CHECKPOINTS, self.checkpoints),
            web.get(routes.METRICS, make_aiohttp_handler(self._runtime.metrics.registry)),
            web.get(routes.LIVE, self.live),
            web.get(routes.READY, self.ready),
            web.get(routes.OPENAPI, self.openapi),
            web.get(routes.PAGE, self._page.index),
            web.get(routes.PAGE_FILE, self._page.file),
        ]

    # Workers.

    async def join(self, request: web.Request) -> web.StreamResponse:
        fields = Fields(await admission.json_body(request), "join")
        return rendering.small((await self._runtime.ask(Join.read(fields))).reply)

    async def leave(self, request: web.Request) -> web.StreamResponse:
        return rendering.small((await self._runtime.ask(Leave(_life(request)))).reply)

    async def heartbeat(self, request: web.Request) -> web.StreamResponse:
        return rendering.small((await self._runtime.ask(Heartbeat(_life(request)))).reply)

    async def barrier(self, request: web.Request) -> web.StreamResponse:
        fields = Fields(await admission.json_body(request), "barrier")
        arrival = Barrier.read(fields, request.match_info["name"], admission.wait_seconds(request))
        return rendering.small((await self._runtime.ask(arrival)).reply)

    # Parameters.

    async def offer(self, request: web.Request) -> web.StreamResponse:
        if admission.query(request).flag("ask"):
            fields = Fields(await admission.json_body(request, limits.MAX_REPLY_JSON_BYTES), "offer")
            specs = tuple(TensorSpec.read(row) for row in fields.listing("specs", limits.MAX_TENSORS))
            names = set[str]()
            for spec in specs:
                if spec.name in names:
                    raise WireError(Code.DUPLICATE_TENSOR, f"tensor {spec.name!r} is there twice", tensor=spec.name)
                names.add(spec.name)
            return rendering.small((await self._runtime.ask(self._offered(fields, specs, ask=True))).reply)
        frame = await self._frame(request)
        if not frame.specs:
            raise MalformedRequest("the offer carries no tensor")
        offer = self._offered(Fields(frame.message, "offer"), frame.specs, ask=False)
        return rendering.small((await self._runtime.ask(offer, frame)).reply)

    def _offered(self, fields: Fields, specs: tuple[TensorSpec, ...], *, ask: bool) -> Offer:
        offer = Offer.read(fields, specs, ask=ask)
        self._runtime.compare_twins(offer)
        return offer

    async def pull(self, request: web.Request) -> web.StreamResponse:
        accept = admission.accepted(request)
        fields = admission.query(request)
        pull = Pull.read(fields, admission.wait_seconds(request))
        if hdrs.IF_NONE_MATCH in request.headers and pull.since is None:
            pull = _since(pull, request.headers[hdrs.IF_NONE_MATCH])
        if routes.FRAME not in accept:
            return await self._download(request, pull, accept)
        if "keys" in fields:
            raise MalformedRequest("'keys' selects tensors of a safetensors or npy answer; a frame has the whole group")
        outcome = _unless_known(request, await self._runtime.ask(pull))
        return await rendering.pulled(request, outcome, self._lend(request, pull.group, outcome))

    async def _download(self, request: web.Request, pull: Pull, accept: frozenset[str]) -> web.StreamResponse:
        if accept.isdisjoint((routes.SAFETENSORS, routes.NPY, "*/*", "application/*")):
            raise rendering.not_acceptable(request.headers[hdrs.ACCEPT])
        outcome = _unless_known(request, await self._runtime.ask(pull))
        if not isinstance(outcome.reply, Granted) or outcome.version is None:
            return await rendering.pulled(request, outcome, [])
        layout = outcome.version.layout
        keys = _keys(request, pull.group, layout)
        (body,) = self._lend(request, pull.group, outcome)
        headers: dict[str, str] = {hdrs.ETAG: outcome.reply.version.etag}
        if routes.NPY in accept:
            if keys is None or len(keys) != 1:
                raise MalformedRequest("application/x-npy holds one tensor: name it with 'keys'")
            buffers = downloads.npy(layout.places[keys[0]], body)
            return await rendering.stream(request, buffers, routes.NPY, headers=headers)
        buffers = downloads.safetensors(layout, body, keys)
        return await rendering.stream(request, buffers, routes.SAFETENSORS, headers=headers)

    async def push(self, request: web.Request) -> web.StreamResponse:
        fields = admission.query(request)
        wait = admission.wait_seconds(request)
        since = Version.parse(fields.text("since")) if "since" in fields else None
        frame = await self._frame(request)
        push = Push.read(
            Fields(frame.message, "push"),
            tuple(spec.name for spec in frame.specs),
            pull=fields.flag("pull"),
            since=since,
            wait_seconds=wait,
        )
        if isinstance(self._runtime.judge(push), Fresh) and push.kind is not UpdateKind.SKIP:
            await self._runtime.inspect(push, frame)
        outcome = await self._runtime.ask(push, frame)
        return await rendering.push_pulled(request, outcome, self._lend(request, push.group, outcome))

    def _lend(self, request: web.Request, group: str, outcome: Outcome) -> list[memoryview]:
        """The version's body for this reader, who is closed down if it pins the memory for too long."""
        if outcome.version is None:
            return []
        return [self._runtime.readers.lend(group, outcome.version, request.transport)]

    async def _frame(self, request: web.Request) -> Frame:
        try:
            return await admission.frame_body(request, self._max_body_bytes, self._runtime.allocate)
        except (asyncio.CancelledError, ConnectionError, web.RequestPayloadError):
            # The sender is gone: nothing was applied, and the buffer goes back with this frame of the stack.
            with self._runtime.listeners.guard("metrics"):
                self._runtime.metrics.body_aborted()
            raise

    # The run.

    async def policy(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._runtime.policy(_group(request)).to_fields())

    async def set_policy(self, request: web.Request) -> web.StreamResponse:
        fields = Fields(await admission.json_body(request), "policy")
        return rendering.small((await self._runtime.ask(SetPolicy.read(fields, _group(request)))).reply)

    async def optimizer(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._runtime.optimizer(_group(request)))

    async def set_optimizer(self, request: web.Request) -> web.StreamResponse:
        changes = await admission.json_body(request)
        return web.json_response(await self._runtime.set_optimizer(_group(request), changes))

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
        state: dict[str, Any] = {"ready": waits_for is None, "detail": waits_for or "ready"}
        return web.json_response(state, status=503 if waits_for else 200)

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._openapi, content_type="application/yaml")


def _life(request: web.Request) -> Life:
    return Life.read(Query(dict(request.query) | {"rank": request.match_info["rank"]}))


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


def _unless_known(request: web.Request, outcome: Outcome) -> Outcome:
    """The outcome without its version, if `If-None-Match` (RFC 9110, 13.1.2) has it in a list, or is `*`."""
    reply = outcome.reply
    if isinstance(reply, Granted) and outcome.version is not None:
        known = {tag.value for tag in request.if_none_match or ()}
        if known & {"*", str(reply.version)}:
            return replace(outcome, reply=replace(reply, unchanged=True), version=None)
    return outcome


def _since(pull: Pull, etag: str) -> Pull:
    try:
        return replace(pull, since=Version.parse(etag))
    except MalformedRequest:
        return pull  # somebody else's tag: it matches nothing
