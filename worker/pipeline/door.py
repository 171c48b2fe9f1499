"""Where a stage is handed things: it listens for its neighbours, and takes in what it can.

The one rule: nothing is received before it may be taken. What comes too early, or finds no room, is held with its body
unread, so that what waits here is never more than the schedule needs.
"""

from __future__ import annotations

import asyncio
import errno
from enum import Enum
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from leeway.errors import SettingError, WireError
from leeway.protocol import routes
from leeway.protocol.codes import Code
from leeway.protocol.fields import Fields
from leeway.protocol.handovers import Handover, Label, Taken
from leeway.protocol.http.requests import read_label
from leeway.transport.http import receiving, sending
from leeway.transport.http.listener import Listener
from leeway.transport.memory.pool import Pool
from leeway.worker.pipeline.boxes import Boxes
from leeway.worker.pipeline.parcels import Arrived

if TYPE_CHECKING:
    from leeway.transport.credentials.handshakes import ListenerContext
    from leeway.worker.pipeline.boxes import Key
    from leeway.worker.pipeline.carried import Carried
    from leeway.worker.pipeline.changes import Changes
    from leeway.worker.pipeline.peers import Peers

# How long a handover is held before its sender is told to send it again: well below the silence after which a sender
# takes its neighbour for lost (`exchange.SILENCE_SECONDS`).
HOLD_SECONDS = 30.0

# A neighbour whose cable was pulled is noticed, and what it was sending is let go of.
HALF_OPEN_SECONDS = 30.0

# Requests that are held before anybody's secret is known: the neighbours of a life that begins, or strangers.
MAX_EARLY = 64


class Verdict(Enum):
    TAKE = "it may be received"
    KNOWN = "it was taken before, or is of an iteration that is over"
    HOLD = "not yet"
    EARLY = "not yet, and whose it is cannot be told yet"


class Door:
    """`changes` is told when anything has come, and tells of all that others do here."""

    def __init__(self, changes: Changes, carried: Carried, tls: ListenerContext | None = None) -> None:
        self.boxes: Boxes[Arrived] | None = None
        self._changes = changes
        self._carried = carried
        self._peers: Peers | None = None
        self._over = False
        self._closed = False
        self._early = 0
        self._receiving: set[asyncio.Transport] = set()
        self._pool = Pool()
        self._listener = Listener(self.routes(), lease_seconds=HALF_OPEN_SECONDS, before_stop=self._stop, tls=tls)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(routes.HANDOVERS, self._handle, expect_handler=receiving.expected),
            web.get(routes.LIVE, self._live),
        ]

    async def open(self, host: str, port: int) -> str:
        """Listen; the URL. Raises `SettingError` when the address cannot be had."""
        try:
            return await self._listener.start(host, port)
        except OSError as error:
            words = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise SettingError(
                f"the port {port} at {host}, where this stage listens for the others, cannot be had: {words}; choose"
                " another, or 0 for a free one"
            ) from None

    async def close(self) -> None:
        await self._listener.stop()

    async def _stop(self) -> None:
        self._closed = True
        self.drop()

    # What the computing does.

    def begin_life(self, peers: Peers) -> None:
        self._forget()
        self._peers, self._over = peers, False
        self._changes.tell()

    def begin(self, clock: int) -> None:
        assert self._peers is not None, "a life has begun"
        self.boxes = Boxes(clock, self._peers.room)
        self._changes.tell()

    def drop(self) -> None:
        """All that is here or on its way in is forgotten, and of this life nothing more is taken."""
        self._over = True
        self._forget()
        self._changes.tell()

    def _forget(self) -> None:
        self.boxes = None
        for transport in list(self._receiving):
            transport.abort()

    # What the neighbours do.

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        label = read_label(receiving.head(request))
        boxes = await self._admitted(label, request.headers.get(hdrs.AUTHORIZATION))
        if boxes is None:
            return sending.small(Taken.of(label, repeated=True))
        key = _key(label)
        try:
            with boxes.coming(key):
                boxes.put(key, await self._receive(request, label))
        finally:
            self._changes.tell()
        return sending.small(Taken.of(label))

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"live": True})

    async def _receive(self, request: web.Request, label: Label) -> Arrived:
        assert self._peers is not None
        transport = request.transport
        if transport is None:
            raise ConnectionError("the neighbour is gone")
        self._receiving.add(transport)
        try:
            frame = await receiving.frame_body(request, self._peers.max_body_bytes, self._pool.take)
        finally:
            self._receiving.discard(transport)
        self._carried.received += 1
        self._carried.received_bytes += request.content.total_bytes
        return Arrived(Handover.read(Fields(frame.message, "handover"), label, frame.specs), frame)

    async def _admitted(self, label: Label, authorization: str | None) -> Boxes[Arrived] | None:
        """The boxes that it goes into, as soon as it may; None: it was taken before. Raises `WireError`."""
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                while (verdict := self._judge(label, authorization)) in (Verdict.HOLD, Verdict.EARLY):
                    await self._hold(early=verdict is Verdict.EARLY)
        except TimeoutError:
            raise WireError(
                Code.BUSY, f"{self._peers or 'this stage'} has no room for {label} yet; send it again"
            ) from None
        return None if verdict is Verdict.KNOWN else self.boxes

    async def _hold(self, *, early: bool) -> None:
        if early and self._early >= MAX_EARLY:
            raise WireError(Code.BUSY, f"{MAX_EARLY} handovers wait for a life to begin here; send it again later")
        self._early += early
        try:
            await self._changes.wait()
        finally:
            self._early -= early

    def _judge(self, label: Label, authorization: str | None) -> Verdict:
        """Raises `WireError` for whom nothing is taken from."""
        if self._closed:
            raise WireError(Code.STOPPING, "this stage is ending; send it again to the one that takes its place")
        peers, boxes = self._peers, self.boxes
        if peers is None or peers.is_before(label.life):
            return Verdict.EARLY
        peers.check(label, authorization)
        if self._over:
            raise WireError(Code.UNKNOWN_NEIGHBOUR, f"the life {label.life} is over; join again")
        if boxes is None or label.clock > boxes.clock:
            return Verdict.HOLD
        if label.clock < boxes.clock or boxes.had(_key(label)):
            return Verdict.KNOWN
        return Verdict.TAKE if boxes.has_room(_key(label)) else Verdict.HOLD


def _key(label: Label) -> Key:
    return label.sender, label.direction, label.micro_batch
