"""A worker that does all as it should: `python -m tests.bench.honest URL` is a peer that pulls and pushes 4 KiB.

The one rule: it never does more than `RATE` iterations a second, so that it leaves the cores to others.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any

from leeway.protocol.pushes import UpdateKind
from leeway.worker.client import Client
from tests.bench import shapes
from tests.bench.peers import serve

RATE = 100


class Honest:
    """Lives in a thread with a loop of its own: its heartbeats go on between two commands."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._update = shapes.update("small")
        self._client: Client = self._run(self._begin(url))

    def answer(self, command: dict[str, Any]) -> dict[str, list[float]]:
        """Seconds of each push in so many `seconds`."""
        return {"push": self._run(self._work(command["seconds"]))}

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _begin(self, url: str) -> Client:
        client = await Client(url, "honest").__aenter__()
        await client.offer(shapes.specs("small"), lambda layout: self._update.buffers)
        return client

    async def _work(self, seconds: float) -> list[float]:
        taken = []
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            await self._client.pull()
            pulled = time.perf_counter()
            await self._client.push(UpdateKind.GRADIENT, 1, self._update)
            done = time.perf_counter()
            taken.append(done - pulled)
            await asyncio.sleep(max(0.0, began + 1 / RATE - done))
        return taken


if __name__ == "__main__":
    serve({"ready": True}, Honest(sys.argv[1]).answer)
