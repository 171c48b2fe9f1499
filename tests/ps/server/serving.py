"""The real application on a port of the system's choice, in the loop of the test, with a clock that the test turns."""

import asyncio
import contextlib
import time

import numpy as np
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from leeway.ps.server import lifecycle
from leeway.ps.server.entrance import Entrance
from leeway.ps.settings.config import ServerConfig
from tests.ps.server import rawclient

MODEL = {
    "weight": np.arange(12, dtype=np.float32).reshape(4, 3),
    "bias": np.ones(3, np.float32),
    "mean": np.zeros(3, np.float32),
    "seen": np.array(0, np.int64),
}


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = time.monotonic()

    def __call__(self):
        return self.now


class Server:
    """A server in this loop: what came out of `lifecycle`, and requests to it over real sockets."""

    def __init__(self, runtime, clock, host, port, listener, entrance, url):
        self.listener, self.entrance = listener, entrance
        self.runtime, self.clock = runtime, clock
        self.host, self.port = host, port
        self.url = url

    @property
    def pool(self):
        return self.runtime.pool

    def connections(self):
        """The transports of the accepted connections."""
        return [connection.transport for connection in self.listener.connections]

    def connect(self, *, small=False):
        return rawclient.connect(self.host, self.port, small=small)

    async def request(self, method, target, body=None, headers=None):
        async with self.connect() as connection:
            return await connection.request(method, target, body, headers)

    async def get(self, target, headers=None):
        return await self.request("GET", target, headers=headers)

    async def post(self, target, body=None, headers=None):
        return await self.request("POST", target, body, headers)

    async def put(self, target, body=None, headers=None):
        return await self.request("PUT", target, body, headers)

    async def offer(self, tensors=MODEL):
        reply = await self.put("/v1/params", rawclient.frame({}, tensors), {"Content-Type": rawclient.FRAME})
        assert reply.status == 200, reply
        return reply

    async def push(self, body, *, query="", headers=None):
        return await self.post("/v1/updates" + query, body, {"Content-Type": rawclient.FRAME} | (headers or {}))

    async def join(self, rank, **changes):
        return await rawclient.Worker(self, rank).join(**changes)

    async def values(self):
        return rawclient.arrays(await self.get("/v1/params", {"Accept": rawclient.FRAME}))

    def advance(self, seconds):
        """Let time pass: leases and waits run out."""
        self.clock.now += seconds
        self.runtime.tick()

    def metric(self, name, **labels):
        """The value of a sample, 0 when there is none."""
        for family in text_string_to_metric_families(generate_latest(self.runtime.metrics.registry).decode()):
            for sample in family.samples:
                if sample.name == f"leeway_server_{name}" and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0

    async def state(self):
        """All that a request must not change when it is refused: the status, the version, the parameters' bytes."""
        status = (await self.get("/v1/status")).json
        del status["uptime_seconds"], status["time"]
        for worker in status["workers"]:
            del worker["lease_left_seconds"]
        parameters = await self.get("/v1/params", {"Accept": rawclient.FRAME})
        return status, parameters.status, parameters.headers.get("etag"), parameters.body

    @contextlib.asynccontextmanager
    async def untouched(self):
        """Around what must change nothing, and leave the server alive."""
        before = await self.state()
        yield
        assert await self.state() == before

    async def until(self, condition):
        """Wait for what the loop is about to do."""
        async with asyncio.timeout(rawclient.PATIENCE_SECONDS):
            while not condition():  # noqa: ASYNC110 - there is no event for what the test waits for
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def built(config):
    """What `lifecycle` builds of a configuration: the runtime, what saves its state, and the clock that it goes by.

    It has no socket, and no ticks of its own.
    """
    async with contextlib.AsyncExitStack() as stack:
        clock = Clock()
        runtime, saving = lifecycle.build(config, stack, clock)
        try:
            yield runtime, saving, clock
        finally:
            if runtime.failed.done():
                runtime.failed.exception()
            else:
                runtime.failed.cancel()


@contextlib.asynccontextmanager
async def serve(*, most_connections=None, **settings):
    """A running server with these settings, which has no ticks of its own: see `Server.advance`."""
    config = ServerConfig(port=0, **settings)
    async with built(config) as (runtime, saving, clock):
        entrance = Entrance(config, clock)
        listening = entrance.listener(runtime, saving, most_connections)
        address = await listening.start(config.host, config.port)
        host, _, port = address.partition("://")[2].rpartition(":")
        try:
            yield Server(runtime, clock, host, int(port), listening, entrance, address)
        finally:
            runtime.stop()
            await listening.stop()
