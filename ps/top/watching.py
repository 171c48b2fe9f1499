"""Listens and draws: once, or until somebody says that it is enough.

The one rule: drawing never waits for the server. A thread listens and connects again; what it hears is taken from a
queue between two drawings, so Ctrl-C works and the clock goes on while the server is silent.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.live import Live

from leeway.ps.top.screen import render
from leeway.ps.top.stream import Lost, Message, Refused, listen
from leeway.ps.top.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# From its first state to its last one, a snapshot takes so long at least.
_SNAPSHOT_SECONDS = 1.0

# Between two attempts to connect: at once after the first loss, then more and more seldom.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0


class Unwatchable(Exception):
    """There is no server to watch; the message says why, in one line."""


def once(url: str, group: str | None) -> None:
    """Print one snapshot. Raises `Unwatchable`.

    It takes a moment: rates and shares are differences of two states.
    """
    watched, began = Watched(url, group), None
    try:
        for message in listen(url):
            _take(watched, message)
            if message.event == "status":
                seconds = message.data["uptime_seconds"]
                began = seconds if began is None else began
                if seconds - began >= _SNAPSHOT_SECONDS:
                    break
    except Refused as error:
        raise Unwatchable(str(error)) from None
    except Lost as error:
        if watched.status is None:
            raise Unwatchable(str(error)) from None
    console = Console(highlight=False)
    console.print(render(watched, console.width, None, time.time()), soft_wrap=True)


def live(url: str, group: str | None, refresh_seconds: float) -> None:
    """Draw until Ctrl-C or SIGTERM. Raises `Unwatchable` when there is no server from the beginning."""
    watched = Watched(url, group)
    heard: queue.SimpleQueue[Message | Lost | Refused] = queue.SimpleQueue()
    ended = threading.Event()
    threading.Thread(target=_listen, args=(url, heard, ended), name="listening", daemon=True).start()
    try:
        _first(watched, heard)
        console = Console(highlight=False)
        with (
            contextlib.suppress(KeyboardInterrupt),
            _terminated_by_interrupt(),
            Live(console=console, screen=True, auto_refresh=False) as screen,
        ):
            while True:
                size = console.size
                screen.update(render(watched, size.width, size.height, time.time()), refresh=True)
                _hear(watched, heard, refresh_seconds)
    finally:
        ended.set()


def _first(watched: Watched, heard: queue.SimpleQueue[Message | Lost | Refused]) -> None:
    """Wait for the first state."""
    while watched.status is None:
        told = heard.get()
        if not isinstance(told, Message):
            raise Unwatchable(str(told))
        _take(watched, told)


def _hear(watched: Watched, heard: queue.SimpleQueue[Message | Lost | Refused], seconds: float) -> None:
    """Take what comes in the next `seconds`."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            told = heard.get(timeout=left)
        except queue.Empty:
            return
        if isinstance(told, Message):
            _take(watched, told)
        else:
            watched.lost(time.time(), str(told))


def _take(watched: Watched, message: Message) -> None:
    try:
        watched.take(message)
    except LookupError as error:
        raise Unwatchable(str(error.args[0] if error.args else error)) from None
    except (TypeError, ValueError) as error:
        raise Unwatchable(f"{watched.url} tells what cannot be read: {error}") from None


def _listen(url: str, heard: queue.SimpleQueue[Message | Lost | Refused], ended: threading.Event) -> None:
    """Put what is heard into the queue, and why nothing is; connect again for ever."""
    last_id, pause = "", _FIRST_PAUSE_SECONDS
    while not ended.is_set():
        try:
            for message in listen(url, last_id):
                last_id, pause = message.id or last_id, _FIRST_PAUSE_SECONDS
                heard.put(message)
        except (Lost, Refused) as error:
            heard.put(error)
        ended.wait(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


@contextlib.contextmanager
def _terminated_by_interrupt() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that the terminal is put in order."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
