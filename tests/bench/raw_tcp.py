"""Raw blocking TCP: what the socket can do, with no protocol, no check and no arithmetic.

The one rule: every byte ends up in memory of its own. Reading into one small buffer again and again would stay in
the processor's cache and be of no use to anybody.

As a program it is one of the two sides: `python -m tests.bench.raw_tcp sink` prints its port and takes connections
one after another; `... source PORT` connects to it and does what `peers` hands it.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.bench.peers import ask_all, peer, serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.peers import Peer

# What the source asks the sink for: direction, bytes, size of one call in bytes.
_REQUEST = struct.Struct("<cQQ")
_PUSH, _PULL = b">", b"<"

TIMEOUT_SECONDS = 60
KIB = 1024
WHOLE = 1024 * 1024
"""In KiB: larger than any body."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of one `recv_into` and of one `sendall`, and of the kernel's buffers (0: as the system likes)."""

    receive_bytes: int
    send_bytes: int
    kernel_bytes: int = 0

    def __str__(self) -> str:
        receive, send, kernel = map(_words, (self.receive_bytes, self.send_bytes, self.kernel_bytes))
        return f"receives {receive}, sends {send}, kernel's buffers {kernel}"


def _words(nbytes: int) -> str:
    if nbytes >= WHOLE * KIB:
        return "whole"
    return f"{nbytes // KIB} KiB" if nbytes else "automatic"


SWEEP = tuple(
    Sizes(receive * KIB, send * KIB, kernel * KIB)
    for kernel in (0, 200)
    for receive in (64, 256, 1024, WHOLE)
    for send in (256, 1024, WHOLE)
)


def _send(connection: socket.socket, body: memoryview, call_bytes: int) -> None:
    for start in range(0, len(body), call_bytes):
        connection.sendall(body[start : start + call_bytes])


def _receive(connection: socket.socket, body: memoryview, call_bytes: int) -> bool:
    """Fill the body. Returns False when the other side is gone."""
    done = 0
    while done < len(body):
        got = connection.recv_into(body[done : done + call_bytes])
        if not got:
            return False
        done += got
    return True


def _prepare(connection: socket.socket, kernel_bytes: int) -> None:
    if kernel_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kernel_bytes)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kernel_bytes)


def sink() -> None:
    """Serve one connection after another until stdin ends; the first bytes of each are the kernel's buffer size."""
    body = memoryview(bytearray())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                head = memoryview(bytearray(8))
                if _receive(connection, head, 8):
                    _prepare(connection, int.from_bytes(head, "little"))
                    body = _serve(connection, body)


def _serve(connection: socket.socket, body: memoryview) -> memoryview:
    head = memoryview(bytearray(_REQUEST.size))
    while _receive(connection, head, _REQUEST.size):
        direction, nbytes, call_bytes = _REQUEST.unpack(head)
        if len(body) != nbytes:
            body = _touched(nbytes)
        if direction == _PULL:
            _send(connection, body, call_bytes)
        elif _receive(connection, body, call_bytes):
            connection.sendall(b"!")
    return body


def _touched(nbytes: int) -> memoryview:
    """Memory that the system has really given us."""
    return np.ones(nbytes, np.uint8).data


class Source:
    """The client side. `push` and `pull` move `nbytes` and return begin and end in seconds of the monotonic clock."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: socket.socket | None = None
        self._kernel_bytes = -1
        self._body = memoryview(b"")

    def answer(self, command: dict[str, Any]) -> dict[str, float]:
        sizes = Sizes(*command["sizes"])
        nbytes: int = command["nbytes"]
        connection = self._connected(sizes.kernel_bytes)
        if len(self._body) != nbytes:
            self._body = _touched(nbytes)
        begin = time.perf_counter()
        for direction in command["directions"]:
            if direction == "push":
                connection.sendall(_REQUEST.pack(_PUSH, nbytes, sizes.receive_bytes))
                _send(connection, self._body, sizes.send_bytes)
                assert connection.recv(1) == b"!"
            else:
                connection.sendall(_REQUEST.pack(_PULL, nbytes, sizes.send_bytes))
                assert _receive(connection, self._body, sizes.receive_bytes)
        return {"begin": begin, "end": time.perf_counter()}

    def _connected(self, kernel_bytes: int) -> socket.socket:
        if self._connection is None or self._kernel_bytes != kernel_bytes:
            if self._connection is not None:
                self._connection.close()
            connection = socket.socket()
            # Not `settimeout`, which would make every call wait for the socket first.
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", TIMEOUT_SECONDS, 0))
            _prepare(connection, kernel_bytes)
            connection.connect(("127.0.0.1", self._port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(kernel_bytes.to_bytes(8, "little"))
            self._connection, self._kernel_bytes = connection, kernel_bytes
        return self._connection


@dataclass(frozen=True, slots=True)
class Streams:
    """As many sources as there are, each with a sink of its own. Rates are in GB/s, of all together."""

    sources: Sequence[Peer]
    nbytes: int

    def push_and_pull(self, sizes: Sizes) -> dict[str, float]:
        """All pull at the same time, then all push at the same time."""
        return {direction: self._rate(sizes, [direction]) for direction in ("pull", "push")}

    def cycles(self, sizes: Sizes, count: int) -> dict[str, float]:
        """All pull and push for themselves, nobody waiting for another."""
        return {"both": self._rate(sizes, ["pull", "push"] * count)}

    def _rate(self, sizes: Sizes, directions: list[str]) -> float:
        answers = ask_all(self.sources, sizes=astuple(sizes), nbytes=self.nbytes, directions=directions)
        seconds: float = max(one["end"] for one in answers) - min(one["begin"] for one in answers)
        return len(self.sources) * len(directions) * self.nbytes / seconds / 1e9


@contextmanager
def streams(count: int, nbytes: int) -> Iterator[Streams]:
    """So many raw streams for bodies of this size."""
    module = "tests.bench.raw_tcp"
    with ExitStack() as stack:
        sinks = [stack.enter_context(peer(module, "sink")) for _ in range(count)]
        sources = [stack.enter_context(peer(module, "source", str(one.hello["port"]))) for one in sinks]
        yield Streams(sources, nbytes)


if __name__ == "__main__":
    if sys.argv[1] == "sink":
        sink()
    else:
        serve({"ready": True}, Source(int(sys.argv[2])).answer)
