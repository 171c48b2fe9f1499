"""Runs one mode: a server and its workers, followed to their end.

The one rule: no process is left behind, whatever happens; and what they said is in the mode's log file, whose last
lines are shown when one of them fails.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

from leeway.worker.launch.children import Children, Program
from tests.demo.plan import BATCH_SIZE, RANKS, TASK, WORKERS, Mode, Plan
from tests.demo.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SERVER = "server"
GROUP = "default"

# How often the demo looks: often enough for a smooth curve, too seldom to be felt by the workers.
LOOK_SECONDS = 0.1

# No mode takes half as long as this on a slow machine; something hangs.
LIMIT_SECONDS = 180.0

LAST_LINES = 15


class RunFailed(RuntimeError):
    """A process failed. The message says which, and what was said last."""


class Watcher(Protocol):
    def show(self, status: dict[str, Any]) -> None:
        """Show the state of the run, as `GET /v1/status` gives it."""
        ...


@dataclass(frozen=True, slots=True)
class Recording:
    """What a run leaves: the server's history, and the versions that were downloaded, by their number."""

    mode: Mode
    history: Path
    versions: dict[int, bytes]


class _Log:
    """Writes what the processes say to a file, and remembers the last lines."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.last: deque[str] = deque(maxlen=LAST_LINES)

    def write(self, name: str, line: str, is_error: bool) -> None:
        self.last.append(f"{name} | {line}")
        self._file.write(self.last[-1] + "\n")


def run(mode: Mode, plan: Plan, folder: Path, watcher: Watcher) -> Recording:
    """Train in one mode. Raises `RunFailed`."""
    history = folder / f"{mode.name}-history.jsonl"
    history.unlink(missing_ok=True)
    with (folder / f"{mode.name}.log").open("w", encoding="utf-8") as file:
        log = _Log(file)
        with Children(log.write) as children:
            try:
                versions = _follow(children, mode, plan, history, watcher)
            except OSError as error:
                # The server does not answer: it has failed, unless something else is wrong.
                children.wait(1.0)
                raise _failed(log, str(error)) from error
            except _Ended as error:
                raise _failed(log, str(error)) from None
    return Recording(mode, history, versions)


class _Ended(Exception):
    """A process ended otherwise than it should."""


def _failed(log: _Log, what: str) -> RunFailed:
    return RunFailed("\n".join([what, *(f"  {line}" for line in log.last)]))


def _follow(children: Children, mode: Mode, plan: Plan, history: Path, watcher: Watcher) -> dict[int, bytes]:
    children.start(Program(SERVER, [*_python("leeway.ps.cli"), *_server_flags(mode, history)], _ENVIRONMENT))
    address = children.first_line(SERVER)
    if address is None:
        raise _Ended("the server did not start")
    for rank in RANKS:
        flags = ["--server", address, "--rank", rank, *_worker_flags(plan)]
        children.start(Program(rank, [*_python("leeway.worker.train.cli"), TASK, *flags], _ENVIRONMENT))
    reader = Reader(address)
    deadline = time.monotonic() + LIMIT_SECONDS
    while children.running != (SERVER,):
        children.wait(LOOK_SECONDS)
        if children.worst_code or SERVER not in children.running:
            raise _Ended("a worker failed" if SERVER in children.running else "the server ended before its workers")
        if time.monotonic() > deadline:
            raise _Ended(f"{mode.title} was not done after {LIMIT_SECONDS:.0f} s")
        status = reader.status()
        watcher.show(status)
        if status["groups"][GROUP]["version"]:
            reader.download()
    # Everybody has left, so the newest version is the last.
    reader.download()
    reader.close()
    children.stop(SERVER)
    if children.worst_code:
        raise _Ended(f"the server ended with exit code {children.worst_code}")
    return reader.versions


# The five processes share the cores: more threads each would only get in each other's way.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PS_LOG_FORMAT": "json"}


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _server_flags(mode: Mode, history: Path) -> Sequence[str]:
    return ["--port", "0", "--workers", str(WORKERS), *mode.flags, "--history", str(history)]


def _worker_flags(plan: Plan) -> Sequence[str]:
    flags = {
        "--steps": plan.iterations,
        "--batch-size": BATCH_SIZE,
        "--start-together": WORKERS,
        "--slow": f"{plan.nap_seconds:g}",
        "--slow-turns": plan.turn,
    }
    return [text for flag, value in flags.items() for text in (flag, str(value))]
