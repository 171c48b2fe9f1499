"""A training run in real processes, by DDP or by Leeway, as somebody sees it who watches from outside.

The one rule: both say when each step was made, by a clock of their own, at the moment it was made; so what is counted
does not depend on when somebody looks.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tests.bench.jobs import System
from tests.bench.processes import ANSWER_SECONDS, Failed, process, python
from tests.bench.server import fetch, metrics, server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.bench.jobs import Job
    from tests.bench.processes import Process
    from tests.bench.server import Server

POLL_SECONDS = 0.1

# The parts of a worker's iteration that it has a histogram of.
_PARTS = ("step", "compute", "push", "wait", "pull")


class Run(ABC):
    """A run under way. `serving` is None under DDP."""

    serving: Server | None = None

    def __init__(self, folder: Path, ranks: Sequence[Process]) -> None:
        self.folder = folder
        self.ranks = ranks

    @abstractmethod
    def step_times(self) -> dict[int, float]:
        """When each step so far was made, by its number from 1, in seconds."""

    @abstractmethod
    def parts(self) -> dict[str, float]:
        """Seconds of all workers' iterations so far, by part, and `count`, how many iterations."""

    def snapshots(self) -> dict[int, Path]:
        """Files of saved parameters, by the number of their step."""
        return {int(path.stem): path for path in self.folder.glob("*.safetensors")}

    def wait_for(self, condition: Callable[[], bool], seconds: float = ANSWER_SECONDS) -> None:
        """Wait until something has come true. Raises `Failed` when a process has failed, or it takes too long."""
        deadline = time.monotonic() + seconds
        while not condition():
            for rank in self.ranks:
                rank.check()
            if time.monotonic() > deadline:
                raise Failed(f"what was waited for in a training run has not happened in {seconds:.0f} s")
            time.sleep(POLL_SECONDS)


class DdpRun(Run):
    def step_times(self) -> dict[int, float]:
        return {number: row[0] for number, row in enumerate(self._rows(0), start=1)}

    def parts(self) -> dict[str, float]:
        rows = [row for rank in range(len(self.ranks)) for row in self._rows(rank)]
        return {"count": len(rows), "step": sum(row[1] for row in rows), "compute": sum(row[2] for row in rows)}

    def _rows(self, rank: int) -> list[list[float]]:
        path = self.folder / f"{rank}.steps"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [[float(cell) for cell in line.split()] for line in lines if line.endswith("\n")]


class LeewayRun(Run):
    def __init__(self, folder: Path, serving: Server, ranks: Sequence[Process], urls: Sequence[str]) -> None:
        super().__init__(folder, ranks)
        self.serving: Server = serving
        self._urls = urls

    def step_times(self) -> dict[int, float]:
        rows = (self.folder / "history.jsonl").read_text().splitlines(keepends=True)
        # Looked for first: most lines are about something else, and they are long.
        events = [json.loads(row) for row in rows if '"is":"Published"' in row and row.endswith("\n")]
        # Version 1 is the initial one.
        return {
            row["event"]["number"] - 1: row["t"]
            for row in events
            if row["event"]["is"] == "Published" and row["event"]["number"] > 1
        }

    def parts(self) -> dict[str, float]:
        pages = [metrics(url) for url in self._urls]
        names = {"count": "leeway_worker_step_seconds_count"}
        names |= {part: f"leeway_worker_{part}_seconds_sum" for part in _PARTS}
        return {part: sum(page.get(name, 0.0) for page in pages) for part, name in names.items()}

    def keep_snapshot(self) -> None:
        """Have the parameters of now among the snapshots, as any reader gets them. (DDP's rank 0 saves its own.)"""
        body, headers = fetch(f"{self.serving.url}/v1/params", accept="application/vnd.safetensors")
        version = int(headers["ETag"].strip('"').rpartition(".")[2])
        (self.folder / f"{version - 1}.safetensors").write_bytes(body)


@contextmanager
def run(system: System, job: Job, folder: Path) -> Iterator[Run]:
    """Start all processes of a run, which write into the empty `folder`; end them, all at the same time, at the end of
    the block.
    """
    with ExitStack() as stack:
        yield _ddp(stack, folder, job) if system is System.DDP else _leeway(stack, folder, system, job)


def _ddp(stack: ExitStack, folder: Path, job: Job) -> DdpRun:
    ranks: list[Process] = []
    for rank in range(job.workers):
        place = [str(folder), str(rank), str(job.workers)]
        own = ["--model", "cnn", "--lr", str(job.lr), "--snapshot-seconds", str(job.snapshot_seconds)]
        command = python("tests.bench.ddp", *place, "mnist", *job.flags(rank), *own)
        ranks.append(stack.enter_context(process(command, talks=False)))
    stack.callback(_ask_to_end, ranks)
    return DdpRun(folder, ranks)


def _leeway(stack: ExitStack, folder: Path, system: System, job: Job) -> LeewayRun:
    flags = ["--workers", str(job.workers), "--lr", str(job.lr), "--history", str(folder / "history.jsonl")]
    serving = stack.enter_context(server(*system.server_flags, *flags, threads=1))
    ranks: list[Process] = []
    for rank in range(job.workers):
        own = ["--server", serving.url, "--rank", f"w{rank}", "--start-together", str(job.workers)]
        own += ["--model", "cnn", "--device", "cpu", "--metrics-port", "0", "--log-level", "warning"]
        ranks.append(stack.enter_context(process(python("leeway.worker.train.cli", "mnist", *job.flags(rank), *own))))
    stack.callback(_ask_to_end, ranks)
    return LeewayRun(folder, serving, ranks, [rank.read_line() for rank in ranks])


def _ask_to_end(ranks: Sequence[Process]) -> None:
    for rank in ranks:
        rank.ask_to_end()
