"""A server in a thread of the tests: over real sockets, there at once, where a process of its own takes seconds."""

import asyncio
import contextlib
import threading

from tests.ps.server.serving import serve


@contextlib.contextmanager
def serving(**settings):
    """A server for one worker that takes deltas as they are, unless `settings` say otherwise; yields its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    running = serve(**{"workers": 1, "lr": 1.0} | settings)
    try:
        yield do(running.__aenter__()).url
    finally:
        do(running.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
