"""Renews the lease while a step computes or a pull is parked.

The one rule: a heartbeat decides nothing. What goes wrong here goes wrong for the next call too, which can do
something about it; so nothing ends this task but its cancellation. Who waits for something else than an answer of the
server may have himself told that the server refuses it, or is silent.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from leeway.errors import ServerLost
from leeway.protocol.membership import Heartbeat
from leeway.protocol.refusals import Refused
from leeway.worker.session.refusals import REACTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.transport.channel import Channel
    from leeway.worker.session.shared_life import SharedLife

# So that a lost heartbeat, or two, do no harm.
HEARTBEATS_PER_LEASE = 3

# A lease shorter than three of these is a mistake, and must not become a busy loop.
SHORTEST_PERIOD_SECONDS = 0.01


async def beat(
    shared: SharedLife, channel: Channel, patience_seconds: float, over: Callable[[Exception], None]
) -> None:
    """Send heartbeats for whatever life there is, on a connection of their own, until cancelled.

    `over` is told what the server says against the life that there still is, or that it has answered nothing for
    `patience_seconds`.
    """
    life, heard = None, time.monotonic()
    while True:
        period_seconds = max(shared.lease_seconds / HEARTBEATS_PER_LEASE, SHORTEST_PERIOD_SECONDS)
        await asyncio.sleep(period_seconds)
        before, life = life, shared.life
        if life is None or shared.ended:
            continue
        if life != before:
            heard = time.monotonic()
        wrong: Exception | None = None
        try:
            answer = await channel.send(Heartbeat(life), limit_seconds=period_seconds)
        except Exception as error:
            silent_seconds = time.monotonic() - heard
            if silent_seconds > patience_seconds:
                wrong = ServerLost(f"the server has answered no heartbeat for {silent_seconds:.0f} s: {error}")
        else:
            heard = time.monotonic()
            match answer.reply:
                case Refused(refusal) if not REACTIONS[refusal.code].passes:
                    wrong = refusal
        if wrong is not None and life == shared.life:
            over(wrong)
