"""A Leeway client that pushes and pulls bodies and does nothing else.

`python -m tests.bench.exchanging URL RANK MODEL [TOKEN_FILE [CA]]` is a peer; the models are those of `shapes`.

The one rule: what is timed is what a training script waits for, the calls of `BlockingClient`; `small` alone is
timed on the async client, without the hop from thread to thread that a bare aiohttp client does not have either.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from leeway.protocol.pushes import UpdateKind
from leeway.transport.credentials.credentials import Credentials
from leeway.worker.blocking import BlockingClient
from leeway.worker.client import Client
from tests.bench import shapes
from tests.bench.peers import serve


class Exchanging:
    """Between two commands no update is in hand; `push` may follow a `pull` only, as the protocol has it."""

    def __init__(self, client: BlockingClient, model: str) -> None:
        self._client = client
        self._update = shapes.update(model)
        client.offer(shapes.specs(model), lambda layout: self._update.buffers)

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do the `directions` one after another; begin and end, and where the client says its time went."""
        before = self._client.client.traffic.copy()
        begin = time.perf_counter()
        for direction in command["directions"]:
            match direction:
                case "push":
                    self._client.push(UpdateKind.GRADIENT, 1, self._update)
                case "pull":
                    self._client.pull()
                case "pushpull":
                    self._client.pushpull(UpdateKind.GRADIENT, 1, self._update)
        end, after = time.perf_counter(), self._client.client.traffic
        return {
            "begin": begin,
            "end": end,
            "send": after.send_seconds - before.send_seconds,
            "wait": after.wait_seconds - before.wait_seconds,
            "receive": after.receive_seconds - before.receive_seconds,
        }


async def small(url: str, rank: str, count: int, credentials: Credentials) -> dict[str, list[float]]:
    """Seconds of `count` pushes and as many pulls of the small model, one after another."""
    update = shapes.update("small")
    seconds: dict[str, list[float]] = {"push": [], "pull": []}
    async with Client(url, rank, credentials=credentials) as client:
        await client.offer(shapes.specs("small"), lambda layout: update.buffers)
        for _ in range(count):
            began = time.perf_counter()
            await client.pull()
            pulled = time.perf_counter()
            await client.push(UpdateKind.GRADIENT, 1, update)
            seconds["push"].append(time.perf_counter() - pulled)
            seconds["pull"].append(pulled - began)
    return seconds


def _answer_small(url: str, rank: str, command: dict[str, Any], credentials: Credentials) -> dict[str, list[float]]:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(small(url, rank, command["count"], credentials))


if __name__ == "__main__":
    url, rank, model, *files = sys.argv[1:]
    shown = Credentials.chosen({}, *(file or None for file in files))
    if model == "small":
        serve({"ready": True}, lambda command: _answer_small(url, rank, command, shown))
    else:
        with BlockingClient(url, rank, credentials=shown) as blocking:
            serve({"ready": True}, Exchanging(blocking, model).answer)
