"""Runs one mode: a server and its workers, followed to their end. The server stays until the end of the block."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from tests.demo.plan import BATCH_SIZE, RANKS, TASK, WORKERS, Mode, Plan
from tests.demo.reader import Reader
from tests.demo.stage import Ended, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GROUP = "default"

# How often the demo looks: often enough for a smooth curve, too seldom to be felt by the workers.
LOOK_SECONDS = 0.1

# No mode takes half as long as this on a slow machine; something hangs.
LIMIT_SECONDS = 180.0


class Watcher(Protocol):
    def begin(self, address: str) -> None:
        """The server answers at this address; its workers start now."""
        ...

    def show(self, status: dict[str, Any]) -> None:
        """Show the state of the run, as `GET /v1/status` gives it."""
        ...


@dataclass(frozen=True, slots=True)
class Recording:
    """What a run leaves: the server's history, and the versions that were downloaded, by their number. On `stage`
    the server of this `address` still runs."""

    mode: Mode
    history: Path
    versions: dict[int, bytes]
    stage: Stage
    address: str

    @property
    def port(self) -> int:
        return urlsplit(self.address).port or 0


@contextmanager
def run(mode: Mode, plan: Plan, folder: Path, watcher: Watcher, port: int = 0) -> Iterator[Recording]:
    """Train in one mode, with the server at `port` if that is free. Raises `RunFailed`."""
    history = folder / f"{mode.name}-history.jsonl"
    history.unlink(missing_ok=True)
    with Stage(folder / f"{mode.name}.log") as stage:
        with stage.explaining():
            address = stage.serve(_server_flags(mode, history), port)
            watcher.begin(address)
            versions = _follow(stage, address, mode, plan, watcher)
        yield Recording(mode, history, versions, stage, address)
        with stage.explaining():
            stage.stop()


def _follow(stage: Stage, address: str, mode: Mode, plan: Plan, watcher: Watcher) -> dict[int, bytes]:
    for rank in RANKS:
        flags = ["--server", address, "--rank", rank, *_worker_flags(plan)]
        stage.start(rank, "leeway.worker.train.cli", [TASK, *flags])
    reader = Reader(address)
    deadline = time.monotonic() + LIMIT_SECONDS
    while stage.workers:
        stage.wait(LOOK_SECONDS)
        if time.monotonic() > deadline:
            raise Ended(f"{mode.title} was not done after {LIMIT_SECONDS:.0f} s")
        status = reader.status()
        watcher.show(status)
        if status["groups"][GROUP]["version"]:
            reader.download()
    # Everybody has left, so the newest version is the last.
    reader.download()
    reader.close()
    return reader.versions


def _server_flags(mode: Mode, history: Path) -> Sequence[str]:
    return ["--workers", str(WORKERS), *mode.flags, "--history", str(history)]


def _worker_flags(plan: Plan) -> Sequence[str]:
    flags = {
        "--steps": plan.iterations,
        "--batch-size": BATCH_SIZE,
        "--start-together": WORKERS,
        "--slow": f"{plan.nap_seconds:g}",
        "--slow-turns": plan.turn,
    }
    return [text for flag, value in flags.items() for text in (flag, str(value))]
