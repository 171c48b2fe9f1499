"""What is seen while a mode runs: a live table on a terminal, a line now and then elsewhere.

The one rule: it shows what the server says of itself (`GET /v1/status`) and computes nothing but a rate from it.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tests.demo.doing import doing
from tests.demo.plan import RANKS, Mode, Plan

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, RenderableType

    from tests.demo.viewing import Viewing

GROUP = "default"
LINE_SECONDS = 2.0
# Over how long steps/s is measured.
RATE_SECONDS = 2.0


class Screen:
    """Shows one mode's run, from the `with` block's begin to its end."""

    def __init__(self, console: Console, mode: Mode, plan: Plan, viewing: Viewing) -> None:
        self._console = console
        self._viewing = viewing
        self._mode = mode
        self._plan = plan
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._next_line = 0.0
        self._rate = Rate()
        self._clocks = dict.fromkeys(RANKS, 0)

    def __enter__(self) -> Screen:
        return self

    def begin(self, address: str) -> None:
        self._viewing.begin(address)
        if self._live:
            self._live.start()
            self._live.update(Text(f"{self._mode.title}: {len(RANKS)} workers start ..."), refresh=True)
        else:
            self._console.print(f"{self._mode.title}: {len(RANKS)} workers start")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, status: dict[str, Any]) -> None:
        group = status["groups"][GROUP]
        workers = {worker["rank"]: worker for worker in status["workers"]}
        self._rate.note(status["uptime_seconds"], group["version"])
        for rank, worker in workers.items():
            self._clocks[rank] = worker["groups"][GROUP]["clock"]
        if self._live:
            self._live.update(self._table(group["version"], workers), refresh=True)
        elif time.monotonic() >= self._next_line and workers:
            self._next_line = time.monotonic() + LINE_SECONDS
            self._console.print(self._line(group["version"], workers), soft_wrap=True)

    def _table(self, version: int, workers: dict[str, dict[str, Any]]) -> Table:
        table = Table(
            title=f"[bold]{self._mode.title}[/]   version {version}   {self._rate.per_second:.0f} steps/s",
            title_justify="left",
            box=None,
            pad_edge=False,
            min_width=76,
        )
        table.add_column("worker")
        table.add_column("clock", justify="right", min_width=5)
        table.add_column("", width=20)
        table.add_column("lag", justify="right", min_width=3)
        table.add_column("loss", justify="right", min_width=6)
        table.add_column("what it does", min_width=30)
        for rank, clock in self._clocks.items():
            worker = workers.get(rank)
            progress = worker["groups"][GROUP] if worker else {}
            loss = worker["reported"].get("loss") if worker else None
            table.add_row(
                rank,
                str(clock),
                ProgressBar(total=self._plan.iterations, completed=clock, width=20),
                str(progress["lag"]) if progress else "",
                "" if loss is None else f"{loss:.3f}",
                self._doing(rank, progress),
            )
        return table

    def _doing(self, rank: str, progress: dict[str, Any]) -> RenderableType:
        if not progress:
            return Text("done" if self._clocks[rank] else "starting", style="dim")
        if progress["state"] == "computing" and self._plan.naps(progress["clock"], RANKS.index(rank), len(RANKS)):
            return Text("computes, slowed", style="bold red")
        return Text(doing(progress), style="yellow" if progress["state"] == "waiting" else "green")

    def _line(self, version: int, workers: dict[str, dict[str, Any]]) -> str:
        waiting = [
            f"{rank} {doing(progress)}"
            for rank, worker in workers.items()
            if (progress := worker["groups"][GROUP])["state"] == "waiting"
        ]
        clocks = " ".join(str(clock) for clock in self._clocks.values())
        return (
            f"{self._mode.title}: clocks {clocks}  version {version}  {self._rate.per_second:.0f} steps/s  "
            f"{'; '.join(waiting) or 'nobody waits'}"
        )


class Rate:
    """Versions a second over the last `RATE_SECONDS`."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, seconds: float, version: int) -> None:
        self._seen.append((seconds, version))
        while self._seen[-1][0] - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()

    @property
    def per_second(self) -> float:
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return 0.0
        (begin, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - begin)
