"""`GET /v1/events`: the run as server-sent events, for the live page and whoever else watches.

The one rule: a viewer is never waited for. One that takes nothing for half a minute is cut off, one that has gone away
is forgotten, and at the server's stop the stream ends with the last message. Who would not be let in any more is told
nothing more.

There is no heartbeat beside the state itself, which comes every two seconds at least.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from leeway.protocol import routes

if TYPE_CHECKING:
    from leeway.ps.watching.feed import Feed
    from leeway.transport.http.counts import Counts
    from leeway.transport.http.gate import Gate

# Longer than a phone takes to change from one network to another; the browser connects again by itself.
WRITE_SECONDS = 30.0

# The same when the server stops: less than it waits for handlers, and enough for the last messages to get through.
LAST_WRITE_SECONDS = 0.5

# A proxy in between is asked to pass each message on at once.
_HEADERS = {hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"}


class Events:
    def __init__(self, feed: Feed, counts: Counts, gate: Gate) -> None:
        self._feed = feed
        self._gate = gate
        self._counts = counts
        # Of the viewers that are being written to: nearly always nobody, but for those that do not read.
        self._deadlines: set[asyncio.Timeout] = set()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        with self._feed.watching(_seen_id(request)) as viewer:
            response = web.StreamResponse(headers=_HEADERS)
            response.content_type = routes.EVENT_STREAM
            await response.prepare(request)
            if request.method == hdrs.METH_HEAD:
                return response
            try:
                # Its token or its session may have ended meanwhile: it is told no more, and why when it comes back.
                while (messages := await self._feed.next_for(viewer)) and self._gate.admits_still(request):
                    await self._write(response, messages)
            except (ConnectionError, TimeoutError):
                # Gone, or as good as gone. Not raised: when the connection is lost in this very moment, nobody looks at
                # the errors of its task any more, and asyncio complains of that.
                if request.transport is not None:
                    request.transport.abort()
            return response

    async def _write(self, response: web.StreamResponse, messages: bytes) -> None:
        async with asyncio.timeout(WRITE_SECONDS) as deadline:
            self._deadlines.add(deadline)
            try:
                await response.write(messages)
            finally:
                self._deadlines.discard(deadline)
        self._counts.sent(routes.EVENTS, len(messages))

    async def hurry(self) -> None:
        """The server stops: whoever does not take the last messages at once goes without them."""
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(asyncio.get_running_loop().time() + LAST_WRITE_SECONDS)


def _seen_id(request: web.Request) -> int | None:
    """The decision that a returning viewer has seen last; ids that are none of ours are no reason to refuse it."""
    try:
        return int(request.headers.get("Last-Event-ID", ""))
    except ValueError:
        return None
