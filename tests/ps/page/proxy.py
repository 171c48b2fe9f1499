"""A proxy in front of a server that wants a token for the stream of events, as a server with tokens will.

The one rule: it passes bytes on and looks at nothing but the token.
"""

import asyncio
import threading
from contextlib import contextmanager

import aiohttp
from aiohttp import web


class _Proxy:
    def __init__(self, url, token):
        self._url = url
        self._token = token
        self._stop = None
        self.address = None
        self.refused = 0

    async def pass_on(self, request):
        if request.path == "/v1/events" and request.headers.get("Authorization") != f"Bearer {self._token}":
            self.refused += 1
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})
        async with self._session.get(self._url + request.path) as answer:
            kept = {name: value for name, value in answer.headers.items() if name in _KEPT}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            return response

    async def serve(self, ready):
        self._stop = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        app = web.Application()
        app.router.add_get("/{path:.*}", self.pass_on)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as self._session:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0]
            self.address = f"http://{host}:{port}"
            ready.set()
            await self._stop.wait()
            await runner.cleanup()

    def stop(self):
        self.loop.call_soon_threadsafe(self._stop.set)


_KEPT = {"Content-Type", "Content-Security-Policy", "Cache-Control"}


@contextmanager
def asking_for(token, url):
    """The proxy in front of `url`, in a thread of its own; its `address`, and how many it has `refused`."""
    proxy = _Proxy(url, token)
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve(ready)))
    thread.start()
    try:
        assert ready.wait(30)
        yield proxy
    finally:
        proxy.stop()
        thread.join(30)
