"""The processes that are measured: how they are started, watched and ended.

The one rule: none outlives the benchmark. The block that started it ends it; and on Linux the kernel does when the
benchmark itself is killed. Nothing is waited for without a limit.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests import linux

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]

# Starting torch in several processes on a busy machine takes seconds; nothing that is waited for takes longer.
ANSWER_SECONDS = 120.0
END_SECONDS = 15.0


class Failed(RuntimeError):
    """A process of the benchmark ended or was silent. The message has what it wrote to stderr."""


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours."""
    return [sys.executable, "-m", module, *arguments]


def _environment(threads: int | None) -> dict[str, str]:
    """Our packages, so many threads for arithmetic, no proxy, and none of the user's own settings of Leeway."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("PS_") and name != "OMP_NUM_THREADS"
    }
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return inherited | limit | {"PYTHONPATH": str(ROOT), "NO_PROXY": "*"}


class Process:
    """A running process. Made by `process`."""

    def __init__(self, command: list[str], errors: IO[bytes], *, talks: bool, threads: int | None) -> None:
        self._errors = errors
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else errors,
            stderr=errors,
            bufsize=0,
            env=_environment(threads),
            cwd=ROOT,
            process_group=0,
            preexec_fn=linux.end_with_parent,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def cpu_seconds(self) -> float:
        return linux.cpu_seconds(self.pid)

    def check(self) -> None:
        """Raise `Failed` if it has ended with an error."""
        if self._popen.poll():
            raise self.failure()

    def failure(self) -> Failed:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")[-2000:]
        command = subprocess.list2cmdline(self._popen.args)  # type: ignore[arg-type]
        return Failed(f"exit code {self._popen.poll()} of {command}\n{said}")

    def write_line(self, line: str) -> None:
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(line.encode() + b"\n")
        except OSError as error:
            raise self.failure() from error

    def read_line(self, seconds: float = ANSWER_SECONDS) -> str:
        """The next line of its stdout. Raises `Failed` when none comes in time.

        Byte for byte, so that nothing of the line behind it is swallowed: these lines are few and short.
        """
        assert self._popen.stdout is not None
        descriptor, line, deadline = self._popen.stdout.fileno(), bytearray(), time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                data = b""
                if selector.select(max(0.0, deadline - time.monotonic())):
                    data = os.read(descriptor, 1)
                if not data:
                    with suppress(subprocess.TimeoutExpired):
                        self._popen.wait(1.0)
                    raise self.failure()
                line += data
        return line.decode().strip()

    def ask_to_end(self) -> None:
        if self._popen.poll() is None:
            self._popen.terminate()

    def end(self) -> None:
        """Ask it to end, and kill it and all that it started when it has not after `END_SECONDS`."""
        self.ask_to_end()
        try:
            self._popen.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


@contextmanager
def process(command: list[str], *, talks: bool = True, threads: int | None = 1) -> Iterator[Process]:
    """A process that is ended at the end of the block.

    `talks`: lines go to its stdin and come from its stdout, else it gets and says nothing. `threads`: for its
    arithmetic; None leaves that to it.
    """
    with tempfile.TemporaryFile() as errors:
        started = Process(command, errors, talks=talks, threads=threads)
        try:
            yield started
        finally:
            started.end()
