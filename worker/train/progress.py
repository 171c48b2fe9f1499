"""How a worker shows how far it is: a bar on a terminal, a plain line now and then elsewhere.

The one rule: showing never holds up training; a line is due by time, not by iteration.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_SECONDS = 5.0


class Progress(Protocol):
    def stepped(self, clock: int, loss: float, lag: int) -> None:
        """An iteration is over: the next one's index, its loss, iterations ahead of the slowest."""
        ...


@contextmanager
def progress(rank: str, steps: int | None) -> Iterator[Progress]:
    """`steps`: the clock to reach, None when only the server knows."""
    if sys.stderr.isatty():
        with _bar(rank, steps) as bar:
            yield bar
    else:
        yield _Lines(steps)


class _Lines:
    def __init__(self, steps: int | None) -> None:
        self._steps = steps
        self._log = structlog.get_logger("worker")
        self._next = time.monotonic() + LINE_SECONDS

    def stepped(self, clock: int, loss: float, lag: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LINE_SECONDS
            self._log.info("training", clock=clock, of=self._steps, loss=round(loss, 4), lag=lag)


@contextmanager
def _bar(rank: str, steps: int | None) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  lag {task.fields[lag]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), refresh_per_second=5) as bar:
        shown = bar.add_task(rank, total=steps, loss=float("nan"), lag=0)

        class Shown:
            def stepped(self, clock: int, loss: float, lag: int) -> None:
                bar.update(shown, completed=clock, loss=loss, lag=lag)

        yield Shown()
