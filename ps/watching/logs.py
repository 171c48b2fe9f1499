"""Structured log lines on stderr: for people on a terminal, JSON everywhere else.

The one rule: every line goes through here, those of asyncio and aiohttp too, so that a collector never meets a
line it cannot read.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Hashable

    from structlog.typing import Processor


def configure(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Send the log lines of this process to `stream` (stderr).

    `level`: debug, info, warning or error. `log_format`: json, console, or auto, which asks the stream.
    """
    stream = stream or sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for_people = log_format == "console" or (log_format == "auto" and stream.isatty())
    facts: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
        if for_people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=facts,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    # A line that cannot be written is lost, and nobody is the worse for it: no traceback into the same broken stream.
    logging.raiseExceptions = False
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=number, handlers=[handler], force=True)
    structlog.configure(
        processors=[*facts, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=_never_raising(structlog.make_filtering_bound_logger(number)),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _never_raising(wrapper: type[Any]) -> type[Any]:
    """What is logged may be what cannot be written out (a value whose `repr` raises): the line is lost, no more."""

    class Quiet(wrapper):  # type: ignore[misc]
        def _proxy_to_logger(self, *args: Any, **kwargs: Any) -> Any:
            with suppress(Exception):
                return super()._proxy_to_logger(*args, **kwargs)

    return Quiet


# Subjects are ranks and groups. Beyond this many, the one silent for longest is forgotten, and may be told twice.
_REMEMBERED_SUBJECTS = 10_000


class OnChange:
    """Whether something new is to be said about a subject: `if changed("w0", reason): log.info(...)`."""

    def __init__(self, remembered: int = _REMEMBERED_SUBJECTS) -> None:
        self._remembered = remembered
        self._said: OrderedDict[Hashable, Hashable] = OrderedDict()

    def __call__(self, subject: Hashable, news: Hashable) -> bool:
        """Return whether `news` differs from what was said of the subject last, and remember it."""
        missing = object()
        changed = self._said.get(subject, missing) != news
        self._said[subject] = news
        self._said.move_to_end(subject)
        if len(self._said) > self._remembered:
            self._said.popitem(last=False)
        return changed


# Often enough to be seen in the newest lines, seldom enough not to fill a disk.
_THROTTLE_SECONDS = 10.0


class Throttle:
    """What may happen many times a second is told the first time, and then once in `seconds` with its number."""

    def __init__(self, seconds: float = _THROTTLE_SECONDS) -> None:
        self._seconds = seconds
        self._told: dict[str, tuple[float, int]] = {}

    def count(self, subject: str, now: float) -> int:
        """Once more. Returns how many times since it was last told, this one included; 0: not to be told now."""
        told_at, untold = self._told.get(subject, (-math.inf, 0))
        if now - told_at < self._seconds:
            self._told[subject] = told_at, untold + 1
            return 0
        self._told[subject] = now, 0
        return untold + 1
