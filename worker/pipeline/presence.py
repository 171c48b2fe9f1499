"""Whether neighbours are still there when the run is complete: the server has been told goodbye and says nothing more.

The one rule: a neighbour is there as long as its process answers, whatever it does.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from leeway.errors import LeewayError
from leeway.transport.failures import Lost
from leeway.worker.heartbeat import HEARTBEATS_PER_LEASE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    Ask = Callable[[int], Awaitable[None]]


async def gone(stages: Iterable[int], ask: Ask, seconds: float) -> str:
    """Returns when one of these stages has answered nothing for so long: in words, which. Without any it never does."""
    waiting = [asyncio.create_task(_gone(stage, ask, seconds)) for stage in stages]
    try:
        if not waiting:
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _gone(stage: int, ask: Ask, seconds: float) -> str:
    period_seconds = seconds / HEARTBEATS_PER_LEASE
    there = time.monotonic()
    while True:
        began = time.monotonic()
        try:
            # Not wait_for: that of Python 3.11 may forget that it was cancelled.
            async with asyncio.timeout(period_seconds):
                await ask(stage)
            there = time.monotonic()
        except (Lost, LeewayError, TimeoutError) as error:
            if time.monotonic() - there > seconds:
                return f"stage {stage} is gone: it has not answered for {seconds:g} s ({str(error) or 'silence'})"
        await asyncio.sleep(max(0.0, began + period_seconds - time.monotonic()))
