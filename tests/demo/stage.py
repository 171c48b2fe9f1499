"""A server and its workers as processes: what they say goes to a file, and nobody is left behind.

The one rule: no process outlives the `with` block, whatever happens in it; and when one of them fails, what was said
last is told.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from leeway.worker.launch.children import Children, Program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SERVER = "server"
HOST = "127.0.0.1"
LAST_LINES = 15

# The processes share the cores: more threads each would only get in each other's way.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PS_LOG_FORMAT": "json"}


class RunFailed(RuntimeError):
    """A process failed. The message says which, and what was said last."""


class Ended(Exception):
    """A process ended otherwise than it should."""


class _Killable(Children):
    """Children of which one can be ended as a power failure does. Its exit code then counts for nothing."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.write)
        self._killed: set[int] = set()

    def kill(self, name: str) -> None:
        child = next(child for child in self._running if child.program.name == name)
        self._killed.add(child.process.pid)
        child.signal(signal.SIGKILL)
        while name in self.running:
            self.wait(0.01)

    @property
    def worst_code(self) -> int:
        return max((child.code or 0 for child in self._ended if child.process.pid not in self._killed), default=0)


class Stage:
    """`log`: the file that everything is written to that the processes say."""

    def __init__(self, log: Path) -> None:
        self._file = log.open("w", encoding="utf-8")
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._children = _Killable(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        try:
            self._children.__exit__(*reason)
        finally:
            self._file.close()

    def write(self, name: str, line: str, is_error: bool) -> None:
        self._last.append(f"{name} | {line}")
        self._file.write(self._last[-1] + "\n")

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """What goes wrong in this block is a `RunFailed`, with the last lines."""
        try:
            yield
        except OSError as error:
            # The server does not answer: it has failed, unless something else is wrong.
            self._children.wait(1.0)
            raise self._failed(str(error)) from error
        except Ended as error:
            raise self._failed(str(error)) from None

    def serve(self, flags: Sequence[str], port: int = 0) -> str:
        """Start the server and return its address. `port`: where it is to be, if that is free; 0: anywhere."""
        place = ["--host", HOST, "--port", str(port if _is_free(port) else 0)]
        self.start(SERVER, "leeway.ps.cli", [*place, *flags])
        address = self._children.first_line(SERVER)
        if address is None:
            raise Ended("the server did not start")
        return address

    def start(self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str] = {}) -> None:
        """Start a Python module as a process of this name."""
        command = [sys.executable, "-m", module, *arguments]
        self._children.start(Program(name, command, {**_ENVIRONMENT, **environment}))

    @property
    def workers(self) -> tuple[str, ...]:
        """The names of the workers that run."""
        return tuple(name for name in self._children.running if name != SERVER)

    def wait(self, seconds: float) -> None:
        """Follow the processes for so long. Raises `Ended` when the server has ended, or a worker has failed."""
        self._children.wait(seconds)
        if SERVER not in self._children.running:
            raise Ended("the server ended before its workers")
        if self._children.worst_code:
            raise Ended("a worker failed")

    def kill(self, name: str) -> None:
        """End a process at once (SIGKILL): it can tell nobody."""
        self._children.kill(name)

    def dismiss(self) -> None:
        """End the workers in good order. Raises `Ended` when one of them says that something has failed."""
        self._children.stop(*self.workers)
        if self._children.worst_code:
            raise Ended("a worker failed at its end")

    def stop(self) -> None:
        """End the server in good order. Raises `Ended` when it says that something has failed."""
        self._children.stop(SERVER)
        if self._children.worst_code:
            raise Ended(f"the server ended with exit code {self._children.worst_code}")

    def hold(self) -> None:
        """Leave the server as it is until it ends."""
        while SERVER in self._children.running:
            self._children.wait(1.0)

    def _failed(self, what: str) -> RunFailed:
        return RunFailed("\n".join([what, *(f"  {line}" for line in self._last)]))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does it: connections of the one before may still be closing.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
