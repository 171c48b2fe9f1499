"""Structured log lines on stderr: for people on a terminal, JSON everywhere else.

The one rule: a worker's lines carry its rank, so that those of many workers can be mixed.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import Processor


def configure(level: str, log_format: str, rank: str, stream: TextIO | None = None, stage: int | None = None) -> None:
    """Send the log lines of this process to `stream` (stderr), each with `rank`, and with `stage` if it is one.

    `level`: debug, info, warning or error. `log_format`: json, console, or auto, which asks the stream.
    """
    stream = stream or sys.stderr
    if log_format == "auto":
        log_format = "console" if stream.isatty() else "json"
    rendering: tuple[Processor, ...] = (
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    )
    if log_format == "console":
        rendering = (structlog.dev.ConsoleRenderer(colors=stream.isatty()),)
    who = {"rank": rank} if stage is None else {"rank": rank, "stage": stage}
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            lambda _, __, event: {**who, **event},
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream),
    )


def of_own_script() -> None:
    """In a process that is not ours: unless it has configured structlog, the lines go to stderr, in a form for people.

    Its stdout is its own, and a stderr that nobody reads any more is no reason for its training to end.
    """
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=lambda *_: _StandardError(),
        )


class _StandardError:
    """What stderr is at that moment."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            print(message, file=sys.stderr, flush=True)

    debug = info = warning = error = critical = msg
