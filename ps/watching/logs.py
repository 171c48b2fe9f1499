"""Structured log lines on stderr: for people on a terminal, JSON everywhere else.

The one rule: every line goes through here, those of asyncio and aiohttp too, so that a collector never meets a
line it cannot read.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter, OrderedDict
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


class Doublings:
    """What may go on for as long as the run is told the 1st, 2nd, 4th, 8th ... time, with its number."""

    def __init__(self) -> None:
        self._times: Counter[Hashable] = Counter()

    def count(self, subject: Hashable) -> int:
        """Once more. Returns how many times it has been so in a row; 0: not to be told now."""
        self._times[subject] += 1
        times = self._times[subject]
        return times if times.bit_count() == 1 else 0

    def over(self, subject: Hashable) -> None:
        """It is so no longer: the next time is a first one."""
        self._times.pop(subject, None)
