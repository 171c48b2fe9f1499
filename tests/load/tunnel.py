"""The slow network for DDP, whose ranks talk to each other: network namespaces, and a router between them.

The one rule: the same delay and the same rates as the proxy's, from the same `Link`: a packet from one rank to another
passes the sender's way up, the receiver's way down, and the delay once. What does not fit the queue is dropped, as
routers do.

A program, `python -m tests.load.tunnel NAMESPACE...`: it says "ready" when every namespace has an interface whose
packets come here (a TUN device), and routes them until it is ended. Linux, as root, with `ip`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import heapq
import os
import selectors
import shutil
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests import linux
from tests.load.proxy import QUEUE_BYTES, Link

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INTERFACE = "leeway0"
_PREFIX = "leeway-load-"
_DEVICE = Path("/dev/net/tun")

# Routed by their last byte alone.
_ADDRESS = "10.213.77.{}"
_FIRST = 1
_MTU_BYTES = 1500

# <linux/if_tun.h>
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def why_not() -> str | None:
    """Why there can be no tunnel here; None when there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "its ranks talk to each other past any proxy, and network namespaces need Linux and root"
    if shutil.which("ip") is None or not _DEVICE.exists():
        return "its ranks talk to each other past any proxy, and a network of its own needs `ip` and /dev/net/tun"
    return None


@contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """So many empty network namespaces, until the end of the block. Those of a program that was killed go, too."""
    for name in _ours():
        if not Path(f"/proc/{name.removeprefix(_PREFIX).partition('-')[0]}").exists():
            _ip("netns", "delete", name)
    names = [f"{_PREFIX}{os.getpid()}-{number}" for number in range(count)]
    try:
        for name in names:
            _ip("netns", "add", name)
        yield names
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                _ip("netns", "delete", name)


def _ours() -> list[str]:
    listed = [line.split()[0] for line in _ip("netns", "list").splitlines() if line]
    return [name for name in listed if name.startswith(_PREFIX)]


def _ip(*arguments: str) -> str:
    """Raises `OSError` with what `ip` says."""
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {ended.stderr.strip()}")
    return ended.stdout


def _open(namespace: str, number: int) -> int:
    """The device that gets all packets of a namespace's only interface."""
    with open("/proc/self/ns/net", "rb") as own, open(f"/run/netns/{namespace}", "rb") as inside:
        linux.enter_network(inside.fileno(), namespace)
        try:
            device = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", INTERFACE.encode(), _IFF_TUN | _IFF_NO_PI))
        finally:
            linux.enter_network(own.fileno(), "of this program")
    _ip("-n", namespace, "address", "add", f"{_ADDRESS.format(_FIRST + number)}/24", "dev", INTERFACE)
    for interface in (INTERFACE, "lo"):
        _ip("-n", namespace, "link", "set", interface, "up")
    return device


class Router:
    """Decides when each packet goes where. `ups`, `downs`: the links of each rank, without their delay."""

    def __init__(self, ups: Sequence[Link], downs: Sequence[Link], delay_seconds: float) -> None:
        self._ups = ups
        self._downs = downs
        self._delay_seconds = delay_seconds
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def take(self, now: float, source: int, packet: bytes) -> None:
        """A packet has come from a rank. What is no IPv4 packet for another rank is dropped, and what has no room."""
        target = packet[19] - _FIRST if len(packet) >= 20 and packet[0] >> 4 == 4 else -1
        if not 0 <= target < len(self._downs):
            return
        up, down = self._ups[source], self._downs[target]
        if max(up.backlog_bytes(now), down.backlog_bytes(now)) > QUEUE_BYTES:
            return
        due = down.arrival(up.arrival(now, len(packet)), len(packet)) + self._delay_seconds
        self._count += 1
        heapq.heappush(self._waiting, (due, self._count, target, packet))

    def due(self, now: float) -> Iterator[tuple[int, bytes]]:
        """The packets that have arrived, each with its rank."""
        while self._waiting and self._waiting[0][0] <= now:
            _, _, target, packet = heapq.heappop(self._waiting)
            yield target, packet

    def next_seconds(self, now: float) -> float | None:
        """Until the next packet arrives; None when none is on its way."""
        return max(0.0, self._waiting[0][0] - now) if self._waiting else None


def route(devices: Sequence[int], router: Router) -> None:
    """Route for ever."""
    clock = time.monotonic
    with selectors.DefaultSelector() as selector:
        for number, device in enumerate(devices):
            selector.register(device, selectors.EVENT_READ, number)
        while True:
            for key, _ in selector.select(router.next_seconds(clock())):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        router.take(clock(), key.data, os.read(key.fd, _MTU_BYTES + 100))
            for target, packet in router.due(clock()):
                with contextlib.suppress(OSError):
                    os.write(devices[target], packet)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="tunnel", description=__doc__.partition("\n")[0])
    parser.add_argument("namespaces", nargs="+")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds, one way")
    parser.add_argument("--up", type=float, default=1e6, help="bytes per second from each")
    parser.add_argument("--down", type=float, default=1e6, help="bytes per second to each")
    options = parser.parse_args(arguments)
    devices = [_open(name, number) for number, name in enumerate(options.namespaces)]
    ups, downs = ([Link(rate, 0.0) for _ in devices] for rate in (options.up, options.down))
    print("ready", flush=True)
    route(devices, Router(ups, downs, options.delay))


if __name__ == "__main__":
    main()
