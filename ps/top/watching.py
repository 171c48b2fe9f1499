"""Listens and draws: once, or until somebody says that it is enough.

The one rule: drawing never waits for the server. A thread listens and connects again; what it hears is taken from a
queue between two drawings, so the clock goes on while the server is silent. Keys and signals come through the same
queue: nothing interrupts a drawing, and the terminal is put in order on every way out.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleDimensions
from rich.live import Live

from leeway.ps.top import keys
from leeway.ps.top.screen import render, render_help
from leeway.ps.top.stream import Lost, Message, Refused, listen
from leeway.ps.top.watched import Watched
from leeway.transport.credentials.credentials import NOTHING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from leeway.transport.credentials.credentials import Credentials

# From its first state to its last one, a snapshot takes so long at least.
_SNAPSHOT_SECONDS = 1.0

# Between two attempts to connect: at once after the first loss, then more and more seldom.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0


class _Wish(Enum):
    """What the terminal's user wants."""

    END = auto()
    SUSPEND = auto()
    REDRAW = auto()


_SIGNALS = {
    signal.SIGINT: _Wish.END,
    signal.SIGTERM: _Wish.END,
    signal.SIGHUP: _Wish.END,
    signal.SIGQUIT: _Wish.END,
    signal.SIGTSTP: _Wish.SUSPEND,
    signal.SIGWINCH: _Wish.REDRAW,
}

_Heard = queue.SimpleQueue["Message | Lost | Refused | _Wish | str"]


class Unwatchable(Exception):
    """There is no server to watch; the message says why, in one line."""


def once(url: str, group: str | None, credentials: Credentials = NOTHING) -> None:
    """Print one snapshot. Raises `Unwatchable`.

    It takes a moment: rates and shares are differences of two states.
    """
    watched, began = Watched(url, group), None
    try:
        for message in listen(url, credentials=credentials):
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


def live(url: str, group: str | None, refresh_seconds: float, credentials: Credentials = NOTHING) -> None:
    """Draw until `q`, Ctrl-C or SIGTERM. Raises `Unwatchable` when there is no server from the beginning."""
    watched = Watched(url, group)
    heard: _Heard = queue.SimpleQueue()
    ended = threading.Event()
    threading.Thread(target=_listen, args=(url, heard, ended, credentials), name="listening", daemon=True).start()
    try:
        _first(watched, heard)
        with _signals(_SIGNALS, heard):
            while _draw_until_wish(watched, heard, refresh_seconds) is _Wish.SUSPEND:
                # Back in the shell, with its terminal as it was; `fg` goes on from here.
                os.kill(os.getpid(), signal.SIGSTOP)
    finally:
        ended.set()


def _draw_until_wish(watched: Watched, heard: _Heard, refresh_seconds: float) -> _Wish:
    """Draw until somebody wants it to end or to be suspended. The terminal is ours in here, and only in here."""
    console = Console(highlight=False)
    typed_at = keys.terminal()
    helping = False
    with (
        Live(console=console, screen=True, auto_refresh=False) as screen,
        keys.pressed(typed_at, heard.put),
    ):
        while True:
            _measure(console)
            size = console.size
            if helping:
                shown = render_help(size.width, size.height)
            else:
                shown = render(watched, size.width, size.height, time.time(), keys=typed_at is not None)
            screen.update(shown, refresh=True)
            match _hear(watched, heard, refresh_seconds):
                case (_Wish.END | _Wish.SUSPEND) as wish:
                    return wish
                case "q" | "Q":
                    return _Wish.END
                case str(key):
                    helping = key in "?h" and not helping
                case _:
                    pass


def _measure(console: Console) -> None:
    """The terminal's own size, now: COLUMNS and LINES, where a shell has exported them, are those of its beginning."""
    with contextlib.suppress(OSError, ValueError):
        columns, lines = os.get_terminal_size(console.file.fileno())
        if columns and lines:
            console.size = ConsoleDimensions(columns, lines)


def _first(watched: Watched, heard: _Heard) -> None:
    """Wait for the first state."""
    while watched.status is None:
        news = heard.get()
        if isinstance(news, (Lost, Refused)):
            raise Unwatchable(str(news))
        if isinstance(news, Message):
            _take(watched, news)


def _hear(watched: Watched, heard: _Heard, seconds: float) -> _Wish | str | None:
    """Take what comes in the next `seconds`; a wish or a key at once."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        try:
            news = heard.get(timeout=left)
        except queue.Empty:
            return None
        if isinstance(news, (_Wish, str)):
            return news
        if isinstance(news, Message):
            _take(watched, news)
        else:
            watched.lost(time.time(), str(news))
    return None


def _take(watched: Watched, message: Message) -> None:
    try:
        watched.take(message)
    except LookupError as error:
        raise Unwatchable(str(error.args[0] if error.args else error)) from None
    except (TypeError, ValueError) as error:
        raise Unwatchable(f"{watched.url} tells what cannot be read: {error}") from None


def _listen(url: str, heard: _Heard, ended: threading.Event, credentials: Credentials) -> None:
    """Put what is heard into the queue, and why nothing is; connect again for ever."""
    last_id, pause = "", _FIRST_PAUSE_SECONDS
    while not ended.is_set():
        try:
            for message in listen(url, last_id, credentials=credentials):
                last_id, pause = message.id or last_id, _FIRST_PAUSE_SECONDS
                heard.put(message)
        except (Lost, Refused) as error:
            heard.put(error)
        ended.wait(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


@contextlib.contextmanager
def _signals(wishes: Mapping[signal.Signals, _Wish], heard: _Heard) -> Iterator[None]:
    """In the block these signals are wishes in the queue, which may be put into at any moment."""

    def wish(number: int, frame: FrameType | None) -> None:
        heard.put(wishes[signal.Signals(number)])

    before = {number: signal.signal(number, wish) for number in wishes}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
