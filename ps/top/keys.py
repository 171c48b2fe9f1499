"""Single keys from the terminal, while the screen is drawn.

The one rule: the terminal is put back as it was found, whatever ends the block. Signals are left to the terminal, so
Ctrl-C works; whoever is in the background of a shell, or has no terminal to type at, gets no keys and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import threading
import tty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What arrow and function keys send (ECMA-48, 5.4), and Alt with a key: none of it is a key of ours.
_SEQUENCE = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|O.|[ -~])")

_READ_BYTES = 1024


def parse(data: bytes) -> str:
    """The single keys in what was read, in order."""
    return _SEQUENCE.sub(b"", data).decode(errors="ignore")


def terminal() -> int | None:
    """The file descriptor of the terminal that one types at; None where there is none, or where another job has it."""
    try:
        number = sys.stdin.fileno()
        ours = os.isatty(number) and os.tcgetpgrp(number) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return None
    return number if ours else None


@contextlib.contextmanager
def pressed(number: int | None, on_key: Callable[[str], None]) -> Iterator[None]:
    """Within the block `on_key` is called, from a thread, with each key that is typed at this terminal (None: none)."""
    if number is None:
        yield
        return
    found = termios.tcgetattr(number)
    ends, end = os.pipe()
    reader = threading.Thread(target=_read, args=(number, ends, on_key), name="keys", daemon=True)
    try:
        tty.setcbreak(number)
        reader.start()
        yield
    finally:
        os.close(end)
        # A terminal that is gone needs no order.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(number, termios.TCSADRAIN, found)
        if reader.ident is not None:
            reader.join()
        os.close(ends)


def _read(number: int, ends: int, on_key: Callable[[str], None]) -> None:
    while True:
        ready, _, _ = select.select([number, ends], [], [])
        if ends in ready:
            return
        try:
            data = os.read(number, _READ_BYTES)
        except OSError:
            return
        if not data:
            return
        for key in parse(data):
            on_key(key)
