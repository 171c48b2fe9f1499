"""The least that aiohttp can do with 4 KiB: a handler that reads a body, one that answers with one, and their client.

`python -m tests.bench.bare_aiohttp serve` prints its port; `... ask PORT` sends requests when it is told to.

The one rule: the same loop, the same library and the same settings as Leeway's, and nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

from tests.bench.peers import serve

SMALL_BYTES = 4096
_BODY = bytes(SMALL_BYTES)


async def _push(request: web.Request) -> web.Response:
    received = len(await request.read())
    return web.json_response({"bytes": received})


async def _pull(request: web.Request) -> web.Response:
    return web.Response(body=_BODY)


async def _serve() -> None:
    app = web.Application()
    app.add_routes([web.post("/", _push), web.get("/", _pull)])
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await asyncio.Event().wait()


async def _ask(port: str, count: int) -> dict[str, list[float]]:
    url = f"http://127.0.0.1:{port}/"
    seconds: dict[str, list[float]] = {"push": [], "pull": []}
    async with aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
        for _ in range(count):
            began = time.perf_counter()
            async with session.get(url) as response:
                await response.read()
            pulled = time.perf_counter()
            async with session.post(url, data=_BODY) as response:
                await response.read()
            seconds["push"].append(time.perf_counter() - pulled)
            seconds["pull"].append(pulled - began)
    return seconds


def _answer(command: dict[str, Any]) -> dict[str, list[float]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_ask(sys.argv[2], command["count"]))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve())
    else:
        serve({"ready": True}, _answer)
