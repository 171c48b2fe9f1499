"""What the second demo says while it runs: what happens as it happens, and every few seconds how things stand.

The one rule: times are the server's and count from where the picture's do, the moment in which all workers begin.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from leeway.worker.starting import START_BARRIER
from tests.demo.doing import doing

if TYPE_CHECKING:
    from rich.console import Console

    from tests.demo.viewing import Viewing

GROUP = "default"
LINE_SECONDS = 3.0


class Teller:
    """Prints each line with the seconds since the beginning; before that, without."""

    def __init__(self, console: Console, viewing: Viewing) -> None:
        self._console = console
        self._viewing = viewing
        self._now = self._next_line = 0.0
        self._began: float | None = None

    def begin(self, address: str) -> None:
        self._viewing.begin(address)

    def show(self, status: dict[str, Any]) -> None:
        self._now = status["uptime_seconds"]
        if self._began is None and status["barriers"].get(START_BARRIER, 0):
            self._began = self._now
            self.tell("all are there and begin")
        elif self._now >= self._next_line:
            self.tell(_stand(status))

    def tell(self, what: str) -> None:
        self._next_line = self._now + LINE_SECONDS
        passed = " " * 6 if self._began is None else f"{self._now - self._began:4.0f} s"
        self._console.print(f"{passed}  {what}", soft_wrap=True, highlight=False)


def _stand(status: dict[str, Any]) -> str:
    workers = status["workers"]
    version = status["groups"][GROUP]["version"]
    losses = [loss for worker in workers if (loss := worker["reported"].get("loss")) is not None]
    if not losses:
        there = ", ".join(worker["rank"] for worker in workers) or "nobody yet"
        return f"the workers start; there: {there}"
    each = ", ".join(f"{worker['rank']} at {_stands(worker['groups'][GROUP])}" for worker in workers)
    return f"version {version}  loss {fmean(losses):.2f}  {each}"


def _stands(progress: dict[str, Any]) -> str:
    return f"{progress['clock']} {doing(progress)}"
