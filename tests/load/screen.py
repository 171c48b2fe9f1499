"""What somebody in front of a terminal sees: a line for each run that is over, and how far all of it is.

The one rule: without a terminal there are lines and nothing that moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.load.answer import percent

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from tests.load.trials import Result


class Screen:
    """To be used as a block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # Redrawing is seldom: the cores are the runs'.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("of about"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=1,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def expect(self, seconds: float) -> None:
        """About how long everything takes."""
        shown = f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
        self._console.print(f"This takes about {shown}.", highlight=False)
        self._progress.update(self._task, total=seconds)

    def began(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def ended(self, result: Result, seconds: float) -> None:
        self._progress.advance(self._task, seconds)
        reached = result.seconds_to_target
        told = f"best {percent(result.best_accuracy)}" if reached is None else f"{reached:.1f} s"
        trial, rate = result.trial, f"{result.updates_per_second:.0f} updates/s"
        line = f"{trial.title}, lr {trial.learning_rate:g}: {told}, {rate}"
        if result.failure:
            self._console.print(f"{line}; BROKE OFF: {result.failure}", style="red", highlight=False, soft_wrap=True)
        else:
            self._console.print(line, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """A line of the second part."""
        self._progress.update(self._task, description=line)
        self._console.print(line, highlight=False, soft_wrap=True)

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
