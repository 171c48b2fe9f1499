"""The requests of the protocol, at whoever listens: receive what the mapping awaits, have it answered, send the reply.

The one rule: nothing is decided here, and no message is taken apart.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from leeway.protocol import routes
from leeway.protocol.http.requests import read_head
from leeway.protocol.http.terms import Content
from leeway.protocol.membership import Join
from leeway.transport.http import receiving, sending
from leeway.transport.http.counts import Uncounted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from leeway.protocol.decoder import Allocate
    from leeway.protocol.frames import Frame
    from leeway.protocol.lives import Life
    from leeway.protocol.messages import Reply, Request
    from leeway.protocol.spans import Layout
    from leeway.transport.http.counts import Counts
    from leeway.transport.http.gate import Gate

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A reply. `body`: what lies in `layout`, where tensors go along; it must stay as it is until it is sent."""

    reply: Reply
    layout: Layout | None = None
    body: Sequence[memoryview] = ()


class Answer(Protocol):
    async def __call__(
        self, message: Request, frame: Frame | None, connection: asyncio.Transport | None, /
    ) -> Outgoing:
        """What a request is answered with. Cancelled when the asker goes away. Raises `WireError` for a refusal.

        `connection`: the asker's, for whoever wants to cut off one that does not take its reply.
        """


def rank_of(message: Request) -> str | None:
    """Whose request it is; None: nobody's in particular, a reader's."""
    if isinstance(message, Join):
        return message.rank
    life: Life | None = getattr(message, "life", None)
    return None if life is None else life.rank


class Messages:
    """`allocate`: the memory for a body that is about to be received, of at most `max_body_bytes`."""

    def __init__(
        self,
        answer: Answer,
        *,
        max_body_bytes: int,
        allocate: Allocate,
        counts: Counts | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._answer = answer
        self._gate = gate
        self._max_body_bytes = max_body_bytes
        self._allocate = allocate
        self._counts = counts or Uncounted()

    def routes(self, pull: Handler | None = None) -> list[web.RouteDef]:
        """All requests of the protocol. `pull`: takes a pull instead, where it may be more than a message."""
        return [
            web.post(routes.WORKERS, self.message, expect_handler=receiving.expected),
            web.delete(routes.WORKER, self.message),
            web.put(routes.LEASE, self.message),
            web.put(routes.PARAMS, self.message, expect_handler=receiving.expected),
            web.get(routes.PARAMS, pull or self.message),
            web.post(routes.UPDATES, self.message, expect_handler=receiving.expected),
            web.post(routes.BARRIER, self.message, expect_handler=receiving.expected),
            web.put(routes.POLICY, self.message, expect_handler=receiving.expected),
            web.put(routes.OPTIMIZER, self.message, expect_handler=receiving.expected),
            web.put(routes.QUARANTINE, self.message, expect_handler=receiving.expected),
            web.delete(routes.QUARANTINE, self.message),
        ]

    async def message(self, request: web.Request) -> web.StreamResponse:
        """Any of them."""
        message, frame = await self._receive(request)
        self.check_rank(request, message)
        outgoing = await self._answer(message, frame, request.transport)
        return await sending.answered(request, outgoing.reply, outgoing.layout, outgoing.body)

    def check_rank(self, request: web.Request, message: Request) -> None:
        """Raise `WireError` where this worker is another's token's, or asks for too much."""
        if self._gate is not None and (rank := rank_of(message)) is not None:
            self._gate.check_rank(request, rank)

    async def _receive(self, request: web.Request) -> tuple[Request, Frame | None]:
        awaited = read_head(receiving.head(request))
        match awaited.content:
            case Content.FRAME:
                frame = await self._frame(request)
                return awaited.read(frame.message, frame.specs), frame
            case Content.JSON:
                return awaited.read(await receiving.json_body(request, awaited.limit_bytes), ()), None
            case _:
                return awaited.read({}, ()), None

    async def _frame(self, request: web.Request) -> Frame:
        try:
            return await receiving.frame_body(request, self._max_body_bytes, self._allocate)
        except (asyncio.CancelledError, ConnectionError, web.RequestPayloadError):
            # The sender is gone: nothing was applied, and the buffer goes back with this frame of the stack.
            self._counts.body_aborted()
            raise
