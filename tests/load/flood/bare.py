"""The least that aiohttp can do with a push-pull: a handler that reads a body and answers with one of that size.

`python -m tests.load.flood.bare BYTES` prints its address. `tests.bench.bare_aiohttp` does one direction at a time.

The one rule: the same loop, the same library and the same settings as Leeway's, and nothing of ours.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web

_BACKLOG = 1024


async def _serve(body_bytes: int) -> None:
    body = bytes(body_bytes)

    async def push_pull(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body)

    app = web.Application(client_max_size=2 * body_bytes)
    app.add_routes([web.post("/v1/updates", push_pull)])
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=_BACKLOG).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner_of_loop:
        runner_of_loop.run(_serve(int(sys.argv[1])))
