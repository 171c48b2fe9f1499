"""A slow network made of nothing but sockets: delay, and a token bucket for each direction, in front of a server.

The one rule: a `Link` computes when bytes arrive, from the time alone, and the proxy delivers them then. What is on the
way is bounded, so a sender feels the slow network as it would feel a real one: its writes block.

A program, `python -m tests.load.proxy HOST:PORT`: it prints a URL for each worker, of ports that all lead to that
server. All connections through one port share its two links.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

# Small, so that a large body gets through evenly; large, so that Python is not what limits the rate.
CHUNK_BYTES = 16 * 1024

# A token bucket of so many bytes: what a router passes on at once after a pause.
BURST_BYTES = 32 * 1024

# Beyond what the delay itself holds, so much may wait in a connection, as in the buffers of a router.
QUEUE_BYTES = 256 * 1024


@dataclass(slots=True)
class Link:
    """One direction. A token bucket of `burst_bytes` that fills with the rate, then the delay.

    The bucket is kept as the moment at which it will be full again (the "virtual scheduling" form of the generic cell
    rate algorithm, ITU-T I.371).
    """

    bytes_per_second: float
    delay_seconds: float
    burst_bytes: int = BURST_BYTES
    _full_at: float = field(default=float("-inf"), init=False)

    def arrival(self, now: float, nbytes: int) -> float:
        """The moment at which `nbytes`, sent now, have arrived. To be asked in the order of sending."""
        self._full_at = max(now, self._full_at) + nbytes / self.bytes_per_second
        sent = max(now, self._full_at - self.burst_bytes / self.bytes_per_second)
        return sent + self.delay_seconds

    def backlog_bytes(self, now: float) -> float:
        """What was sent and has not left yet."""
        return max(0.0, (self._full_at - now) * self.bytes_per_second)

    @property
    def capacity_bytes(self) -> int:
        """What may be on the way in one connection."""
        return QUEUE_BYTES + int(self.bytes_per_second * self.delay_seconds)


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link) -> None:
    """Carry one direction of one connection until its end, which arrives as late as its last byte."""
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(max(1, link.capacity_bytes // CHUNK_BYTES))
    clock = asyncio.get_running_loop().time

    async def send() -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await on_the_way.put((link.arrival(clock(), len(chunk)), chunk))
        await on_the_way.put((clock() + link.delay_seconds, b""))

    async def deliver() -> None:
        while True:
            due, chunk = await on_the_way.get()
            await asyncio.sleep(due - clock())
            if not chunk:
                writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()

    async with asyncio.TaskGroup() as both:
        both.create_task(send())
        both.create_task(deliver())


@asynccontextmanager
async def listening(host: str, port: int, up: Link, down: Link) -> AsyncIterator[int]:
    """The port of one worker, whose connections are carried to the server; until the end of the block."""
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            # A broken connection is broken on both sides, and nothing more.
            with contextlib.suppress(OSError, ExceptionGroup, asyncio.CancelledError):
                await _connect(reader, writer, host, port, up, down)
        finally:
            writer.transport.abort()
            connections.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections)


async def _connect(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, up: Link, down: Link
) -> None:
    from_server, to_server = await asyncio.open_connection(host, port)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(carry(reader, to_server, up))
            both.create_task(carry(from_server, writer, down))
    finally:
        to_server.transport.abort()


async def serve(options: argparse.Namespace) -> None:
    host, _, port = options.to.rpartition(":")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(options.workers):
            up, down = (Link(rate, options.delay) for rate in (options.up, options.down))
            own = await stack.enter_async_context(listening(host.strip("[]"), int(port), up, down))
            print(f"http://127.0.0.1:{own}", flush=True)
        await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="proxy", description=__doc__.partition("\n")[0])
    parser.add_argument("to", metavar="HOST:PORT")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds, one way")
    parser.add_argument("--up", type=float, default=1e6, help="bytes per second to the server")
    parser.add_argument("--down", type=float, default=1e6, help="bytes per second from it")
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(serve(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
