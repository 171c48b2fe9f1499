"""Renews the lease while a step computes or a pull is parked.

The one rule: a heartbeat decides nothing. What goes wrong here goes wrong for the next call too, which can do
something about it; so nothing ends this task but its cancellation. Who waits for something else than an answer of the
server may have himself told of a refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from leeway.protocol.membership import Heartbeat
from leeway.protocol.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.errors import WireError
    from leeway.transport.channel import Channel
    from leeway.worker.session.shared_life import SharedLife

# So that a lost heartbeat, or two, do no harm.
HEARTBEATS_PER_LEASE = 3

# A lease shorter than three of these is a mistake, and must not become a busy loop.
SHORTEST_PERIOD_SECONDS = 0.01


async def beat(shared: SharedLife, channel: Channel, refused: Callable[[WireError], None]) -> None:
    """Send heartbeats for whatever life there is, on a connection of their own, until cancelled.

    `refused` is told what the server says against the life that there still is.
    """
    while True:
        period_seconds = max(shared.lease_seconds / HEARTBEATS_PER_LEASE, SHORTEST_PERIOD_SECONDS)
        await asyncio.sleep(period_seconds)
        if (life := shared.life) is not None and not shared.ended:
            with contextlib.suppress(Exception):
                answer = await channel.send(Heartbeat(life), limit_seconds=period_seconds)
                if isinstance(answer.reply, Refused) and life == shared.life:
                    refused(answer.reply.error)
