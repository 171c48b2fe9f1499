"""Ctrl-C and SIGTERM at the two ends of a program, where an exception would do harm.

The one rule: in the midst of imports an interrupt ends the process at once, for what an exception tears apart there
(modules half made, C++ on the stack) ends as a crash of somebody else's; when the exit code is settled it is ignored.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_CODE: Final = 130
"""Of a program that was interrupted, by Ctrl-C or SIGTERM alike."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def end_at_once() -> None:
    """From here on they end the process with `EXIT_CODE`. One that is ignored, as in the background, stays so."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(EXIT_CODE))


def raise_exceptions() -> None:
    """From here on they raise `KeyboardInterrupt`, so that what has begun can be ended in good order."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def call(handler: Callable[[], object]) -> None:
    """From here on they call this, between two instructions of the main thread, whatever those are."""
    for number in _SIGNALS:
        signal.signal(number, lambda *_: handler())


def ignore() -> None:
    """All is done and said: what still comes must not change the exit code."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def call_at_hangup(handler: Callable[[], object]) -> None:
    """From here on SIGHUP calls this, where there is one, instead of ending the process."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: handler())
