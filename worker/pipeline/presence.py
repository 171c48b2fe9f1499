"""Whether neighbours are still there when the run is complete: the server has been told goodbye and says nothing more.

The one rule: a neighbour is there as long as its door can be knocked at, whatever it does behind it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

# As heartbeats do: a lost attempt, or two, do no harm.
ATTEMPTS = 3


async def gone(addresses: Mapping[int, str], seconds: float) -> str:
    """Returns when one of these stages could not be reached for so long: in words, which. Without any it never does."""
    waiting = [asyncio.create_task(_gone(stage, address, seconds)) for stage, address in addresses.items()]
    try:
        if not waiting:
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in waiting:
            task.cancel()


async def _gone(stage: int, address: str, seconds: float) -> str:
    period_seconds = seconds / ATTEMPTS
    there = time.monotonic()
    while True:
        began = time.monotonic()
        try:
            await asyncio.wait_for(_knock(address), period_seconds)
            there = time.monotonic()
        except (OSError, TimeoutError) as error:
            if time.monotonic() - there > seconds:
                why = str(error) or "no answer"
                return f"stage {stage} is gone: {address} could not be reached for {seconds:g} s ({why})"
        await asyncio.sleep(max(0.0, began + period_seconds - time.monotonic()))


async def _knock(address: str) -> None:
    parts = urlsplit(address)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.close()
