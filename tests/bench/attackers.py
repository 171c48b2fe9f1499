"""Clients that misbehave, each in one way: `python -m tests.bench.attackers URL NAME` is a peer that begins and ends.

The one rule: each is paced, keeps to loopback, and lets go of all that it holds when it is told to end, or its stdin
ends.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import resource
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from leeway.transport import descriptors
from tests.bench.peers import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_LINES = b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
FRAME = b"Content-Type: application/vnd.leeway.frame\r\n"
MOST_LEFT_OPEN = 10_000


def head(method: str, target: str, *headers: str) -> bytes:
    return f"{method} {target}".encode() + _LINES + "".join(f"{line}\r\n" for line in headers).encode() + b"\r\n"


def with_json(method: str, target: str, fields: Any) -> bytes:
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return head(method, target, f"Content-Length: {len(body)}") + body


@dataclass(slots=True)
class Campaign:
    """One attack under way. `sent`: how often it did what it does. `answers`: by status; 0: closed without one."""

    host: str
    port: int
    sent: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    # So that one that begins anew is not taken for the same as before.
    own: str = field(default_factory=lambda: f"{time.time_ns():x}")

    async def connect(self, *, small: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = socket.socket()
        if small:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(made, (self.host, self.port))
            return await asyncio.open_connection(sock=made, limit=2**20)
        except BaseException:
            made.close()
            raise

    async def once(self, data: bytes, answers: int = 1) -> list[tuple[int, bytes]]:
        """On a connection of its own; what came back."""
        got = []
        try:
            reader, writer = await self.connect()
        except OSError:
            self.answers[0] += 1
            return got
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
                async with asyncio.timeout(5.0):
                    writer.write(data)
                    while len(got) < answers:
                        got.append(await answer(reader))
        finally:
            writer.transport.abort()
        self.sent += 1
        self.answers.update([status for status, _ in got] or [0])
        return got

    async def paced(self, rate: float, at_once: int = 32) -> AsyncIterator[int]:
        """Numbers, so many a second; none while `at_once` of those before are under way."""
        began = time.monotonic()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            yield number

    async def repeated(self, rate: float, act: Callable[[int], Awaitable[Any]]) -> None:
        under_way: set[asyncio.Task[Any]] = set()
        try:
            async for number in self.paced(rate):
                if len(under_way) < 64:
                    task = asyncio.ensure_future(act(number))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
        finally:
            for task in under_way:
                task.cancel()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    said = await reader.readuntil(b"\r\n\r\n")
    status = int(said.split(b" ", 2)[1])
    length = [line for line in said.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    body = await reader.readexactly(int(length[0].partition(b":")[2])) if length and status not in (204, 304) else b""
    return status, body


# Those who are slow.


async def _dribble(campaign: Campaign, first: bytes, drop: bytes, count: int) -> None:
    """So many connections, on each of them a drop a second; whoever is closed comes again."""

    async def one() -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await campaign.connect()
                try:
                    writer.write(first)
                    while not reader.at_eof() and not writer.is_closing():
                        writer.write(drop)
                        campaign.sent += 1
                        with suppress(TimeoutError):
                            async with asyncio.timeout(1.0):
                                if not await reader.read(65_536):
                                    break
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.1)

    await asyncio.gather(*(one() for _ in range(count)))


async def slow_heads(campaign: Campaign) -> None:
    await _dribble(campaign, head("GET", "/v1/status")[:-2], b"A: b\r\n", 200)


async def slow_bodies(campaign: Campaign) -> None:
    first = head("POST", "/v1/updates", "Content-Length: 100000000", FRAME.decode().strip())
    await _dribble(campaign, first, b"L", 200)


async def slow_readers(campaign: Campaign) -> None:
    """Requests one behind another, answers of 60 KB, and hardly anything is read of them."""

    async def one() -> None:
        while True:
            with suppress(OSError):
                _, writer = await campaign.connect(small=True)
                try:
                    writer.transport.pause_reading()
                    for _ in range(20):
                        writer.write(head("GET", "/openapi.yaml") * 8)
                        campaign.sent += 8
                        await asyncio.sleep(0.5)
                        if writer.is_closing():
                            break
                finally:
                    writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(50)))


async def connections(campaign: Campaign) -> None:
    """Opened and left."""
    descriptors.raise_limit()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept: list[socket.socket] = []
    try:
        async for _ in campaign.paced(2000):
            if len(kept) >= min(MOST_LEFT_OPEN, soft - 100):
                kept.pop(0).close()
            made = socket.socket()
            made.setblocking(False)
            with suppress(OSError):
                await asyncio.get_running_loop().sock_connect(made, (campaign.host, campaign.port))
            kept.append(made)
            campaign.sent += 1
            if campaign.sent > MOST_LEFT_OPEN:
                await asyncio.sleep(0.005)
    finally:
        for one in kept:
            one.close()


# Those who send too much.


async def large_heads(campaign: Campaign) -> None:
    data = head("GET", "/v1/status")[:-2] + b"A: " + b"a" * 100_000 + b"\r\n\r\n"
    await campaign.repeated(100, lambda _: campaign.once(data))


async def many_headers(campaign: Campaign) -> None:
    data = head("GET", "/v1/status")[:-2] + b"A: b\r\n" * 120 + b"\r\n"
    await campaign.repeated(200, lambda _: campaign.once(data))


async def large_bodies(campaign: Campaign) -> None:
    """Declared beyond the limit, and sent all the same."""
    piece = bytes(2**20)

    async def act(_: int) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            reader, writer = await campaign.connect()
            try:
                async with asyncio.timeout(3.0):
                    writer.write(head("POST", "/v1/updates", f"Content-Length: {2**40}", FRAME.decode().strip()))
                    status, _ = await answer(reader)
                    campaign.sent += 1
                    campaign.answers[status] += 1
                    for _ in range(16):
                        writer.write(piece)
                        await writer.drain()
            finally:
                writer.transport.abort()

    await campaign.repeated(5, act)


async def large_json(campaign: Campaign) -> None:
    """As large as a body of JSON may be, and of as many values as there is room for."""
    control = b"[" + b"0," * 32_000 + b"0]"
    body = b'{"rank": "x", "session": "s", "groups": ' + b"[" + b"0," * 2_000_000 + b"0]}"
    mixed = [with_json("PUT", "/v1/policy", control), with_json("POST", "/v1/workers", body)]
    await campaign.repeated(2, lambda number: campaign.once(mixed[number % 2]))


async def bombs(campaign: Campaign) -> None:
    packed = gzip.compress(bytes(50_000_000), 9)
    heads = [
        head("POST", target, "Content-Encoding: gzip", f"Content-Length: {len(packed)}", *kind)
        for target, kind in (("/v1/workers", []), ("/v1/updates", [FRAME.decode().strip()]))
    ]
    await campaign.repeated(50, lambda number: campaign.once(heads[number % 2] + packed))


# Those who send what is not meant.

STRANGE_TARGETS = (
    "/../../etc/passwd",
    "/page/../../../etc/passwd",
    "/page/..%2f..%2fetc%2fpasswd",
    "/page/%2e%2e/%2e%2e/etc/passwd",
    "/page/....//....//etc/passwd",
    "/page/page.js%00.svg",
    "/v1/workers/..%2f..",
    "/v1/workers/" + "w" * 5000,
    "/v1/barriers/" + "%2e" * 500,
    "/v1/params?group=" + "../" * 500,
    "/v1/params?keys=" + "a," * 3000,
    "/v1/params?" + "a=b&" * 2000,
)


async def strange_names(campaign: Campaign) -> None:
    """Paths that lead out, and ranks, groups and keys that are none."""
    data = [head("GET", target) for target in STRANGE_TARGETS]
    data += [with_json("POST", "/v1/workers", {"rank": "../" * 100_000, "session": "s"})]
    data += [with_json("POST", "/v1/workers", {"rank": "w0", "session": "s" * 100_000, "groups": ["../x"] * 1000})]
    await campaign.repeated(100, lambda number: campaign.once(data[number % len(data)]))


_BODY = b'{"rank": "smuggled", "session": "s"}'
_INNER = b"POST /v1/workers" + _LINES + b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
_POST = b"POST /v1/policy" + _LINES
SMUGGLED = {
    "a length and chunks": _POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _INNER,
    "chunks and a length": _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + _INNER,
    "two lengths": _POST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(_INNER) + _INNER,
    "two lengths in one": _POST + b"Content-Length: 0, %d\r\n\r\n" % len(_INNER) + _INNER,
    "a length with a sign": _POST + b"Content-Length: +0\r\n\r\n" + _INNER,
    "a length with an underscore": _POST + b"Content-Length: 0_0\r\n\r\n" + _INNER,
    "a length in hexadecimal": _POST + b"Content-Length: 0x0\r\n\r\n" + _INNER,
    "a space before the colon": _POST + b"Content-Length : 0\r\n\r\n" + _INNER,
    "a folded line": _POST + b"Content-Length:\r\n 0\r\n\r\n" + _INNER,
    "a folded encoding": _POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + _INNER,
    "chunks of another name": _POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + _INNER,
    "chunks twice": _POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + _INNER,
    "chunks that are not last": _POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + _INNER,
    "two encodings": _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + _INNER,
    "a vertical tab": _POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + _INNER,
    "a chunk's size with a sign": _POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + _INNER,
    "a chunk's size with 0x": _POST + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + _INNER,
    "a chunk's size beyond all": _POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n\r\n" + _INNER,
    "a chunk longer than it says": _POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n" + _INNER,
    "an extension of a chunk with a line feed": _POST + b"Transfer-Encoding: chunked\r\n\r\n0;a\n\r\n\r\n" + _INNER,
    "bare line feeds": (_POST + b"Content-Length: 0\r\n\r\n").replace(b"\r\n", b"\n") + _INNER,
    "bare carriage returns": _POST + b"A: b\rContent-Length: 0\r\n\r\n" + _INNER,
    "no name": _POST + b": b\r\n\r\n" + _INNER,
    "a NUL in a name": _POST + b"Content-Length\0: 0\r\n\r\n" + _INNER,
    "HTTP/1.0 with chunks": b"POST /v1/policy HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _INNER,
    "HTTP/0.9": b"POST /v1/policy\r\n\r\n" + _INNER,
    "a GET with a body": b"GET /livez" + _LINES + b"Content-Length: %d\r\n\r\n" % len(_INNER) + _INNER,
}


async def smuggling(campaign: Campaign) -> None:
    data = list(SMUGGLED.values())
    await campaign.repeated(200, lambda number: campaign.once(data[number % len(data)]))


async def pipelining(campaign: Campaign) -> None:
    """Sixteen requests in one piece, and the answers are read."""
    data = head("GET", "/livez") * 16

    async def one() -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await campaign.connect()
                try:
                    async for _ in campaign.paced(12.5):
                        writer.write(data)
                        for _ in range(16):
                            campaign.answers[(await answer(reader))[0]] += 1
                            campaign.sent += 1
                finally:
                    writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(5)))


# Those who are to be remembered.


async def joins(campaign: Campaign) -> None:
    """Each under a rank of its own, which is not heard of again."""

    async def act(number: int) -> None:
        await campaign.once(
            with_json("POST", "/v1/workers", {"rank": f"j{campaign.own}-{number}", "session": campaign.own})
        )

    await campaign.repeated(100, act)


async def rejoins(campaign: Campaign) -> None:
    """One rank, in a new life each time."""

    async def act(number: int) -> None:
        await campaign.once(with_json("POST", "/v1/workers", {"rank": "again", "session": f"{campaign.own}-{number}"}))

    await campaign.repeated(200, act)


async def _life(campaign: Campaign, rank: str) -> tuple[dict[str, Any], int]:
    """As requests name it, and the clock at which it begins."""
    (got,) = await campaign.once(with_json("POST", "/v1/workers", {"rank": rank, "session": campaign.own}))
    joined = json.loads(got[1])
    life = {"rank": rank, "epoch": joined["epoch"], "incarnation": joined["incarnation"]}
    return life, joined["groups"]["default"]["clock"]


async def barriers(campaign: Campaign) -> None:
    """Thousands of names, each asked to wait."""
    life, _ = await _life(campaign, "barrier")

    async def act(number: int) -> None:
        fields = {**life, "generation": 0, "parties": 2}
        await campaign.once(with_json("POST", f"/v1/barriers/{campaign.own}-{number}", fields))

    await campaign.repeated(200, act)


async def figures(campaign: Campaign) -> None:
    """Updates with ever other names of figures."""
    from leeway.protocol.decoder import decode
    from tests.ps.server.rawclient import frame

    life, first = await _life(campaign, "figures")
    query = "&".join(f"{name}={value}" for name, value in life.items())

    async def act(number: int) -> None:
        # One after another, so that each has its grant; a skip needs no values.
        got = await campaign.once(head("GET", f"/v1/params?{query}&clock={number}", "Accept: " + FRAME[14:-2].decode()))
        if not got or got[0][0] != 200:
            return
        metrics = {f"{number}/{index}": 1.0 for index in range(32)}
        granted = int(decode(got[0][1]).message["version"].partition(".")[2])
        fields = {**life, "clock": number, "version": granted, "kind": "skip", "samples": 0, "metrics": metrics}
        body = frame(fields)
        await campaign.once(head("POST", "/v1/updates", f"Content-Length: {len(body)}", FRAME.decode().strip()) + body)

    async for number in campaign.paced(25):
        await act(first + number)


async def metadata(campaign: Campaign) -> None:
    """Frames that are all metadata, as much as may be sent, and that make nothing of it."""
    from tests.ps.server.rawclient import raw_frame

    body = raw_frame({"x": [[[0] * 1000 for _ in range(100)] for _ in range(10)]})
    data = head("POST", "/v1/updates", f"Content-Length: {len(body)}", FRAME.decode().strip()) + body
    await campaign.repeated(2, lambda _: campaign.once(data))


@dataclass(frozen=True, slots=True)
class Attack:
    """`words`: what it does, for the page."""

    words: str
    act: Callable[[Campaign], Awaitable[None]]


ATTACKS = {
    "slow heads": Attack("200 connections, a header line a second on each", slow_heads),
    "slow bodies": Attack("200 updates of 100 MB, a byte a second on each", slow_bodies),
    "slow readers": Attack("50 connections, 16 requests a second for 60 KB on each, nothing is read", slow_readers),
    "connections": Attack("10,000 connections, opened and left; then 200 a second", connections),
    "large heads": Attack("a header of 100 KB, 100 a second", large_heads),
    "many headers": Attack("120 headers, 200 a second", many_headers),
    "large bodies": Attack("declared 1 TiB, 16 MiB sent, 5 a second", large_bodies),
    "large JSON": Attack("4 MB of JSON, and 64 KB for a policy, one of both a second", large_json),
    "bombs": Attack("50 MB of zeros in 50 KB of gzip, 50 a second", bombs),
    "strange names": Attack("paths that lead out, huge ranks and queries, 100 a second", strange_names),
    "smuggling": Attack(f"{len(SMUGGLED)} ways to hide a request in another, 200 a second", smuggling),
    "pipelining": Attack("16 requests in a piece, 1,000 requests a second", pipelining),
    "joins": Attack("ever other ranks join, 100 a second", joins),
    "rejoins": Attack("one rank joins in ever other lives, 200 a second", rejoins),
    "barriers": Attack("ever other barriers, 200 a second", barriers),
    "figures": Attack("32 ever other names of figures, 25 times a second", figures),
    "metadata": Attack("a frame with 1,000,000 values in its metadata, 2 a second", metadata),
}


class Attacker:
    """Lives in a thread with a loop of its own."""

    def __init__(self, url: str, name: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self._where = address.hostname, address.port
        self._act = ATTACKS[name].act
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._campaign: Campaign | None = None
        self._task: asyncio.Task[None] | None = None

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        if command["do"] == "begin":
            return self._run(self._begin())  # type: ignore[no-any-return]
        return self._run(self._end())  # type: ignore[no-any-return]

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _begin(self) -> dict[str, Any]:
        self._campaign = Campaign(*self._where)
        self._began = time.monotonic(), time.process_time()
        self._task = asyncio.ensure_future(self._act(self._campaign))
        return {}

    async def _end(self) -> dict[str, Any]:
        assert self._task is not None
        assert self._campaign is not None
        failed = self._task.exception() if self._task.done() else None
        self._task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._task
        if failed is not None:
            raise failed
        began, cpu = self._began
        return {
            "seconds": time.monotonic() - began,
            "cpu": time.process_time() - cpu,
            "sent": self._campaign.sent,
            "answers": {str(status): count for status, count in self._campaign.answers.items()},
        }


if __name__ == "__main__":
    serve({"ready": True}, Attacker(*sys.argv[1:]).answer)
