"""Child processes that end when we do, and whose output is followed line by line.

The one rule: no child outlives the `with` block of its `Children`, whatever happens in it. On Linux the kernel
sees to that even when this process is killed.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# How long a child may take to end in good order: long enough to save the state of a large model.
STOP_SECONDS = 20.0

# How often a child is looked at whose output says nothing: a grandchild may hold its pipes open after its end.
_LOOK_SECONDS = 0.1

_READ_BYTES = 65_536

# From <linux/prctl.h>: the signal this process gets when its parent dies.
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: the name its lines go under, the command line, and variables beside ours."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Child:
    program: Program
    process: subprocess.Popen[bytes]
    first_line: str | None = None
    told_to_end: bool = False

    def signal(self, number: signal.Signals) -> None:
        """Signal the child and all that it started. Being a group of its own, it gets no Ctrl-C but through us."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    @property
    def code(self) -> int | None:
        """As a shell would say it: 128 + n after signal n. 0 if it ended as it was told to; None while it runs."""
        code = self.process.poll()
        if code is None or code >= 0:
            return 0 if code in (128 + signal.SIGTERM, 128 + signal.SIGINT) and self.told_to_end else code
        return 0 if self.told_to_end and code == -signal.SIGTERM else 128 - code


@dataclass(slots=True)
class _Pipe:
    child: _Child
    stream: IO[bytes]
    is_error: bool
    unfinished: bytes = b""


class Children:
    """The running children. `write(name, line, is_error)` gets every line of their output, without its end."""

    def __init__(self, write: Callable[[str, str, bool], None], stop_seconds: float = STOP_SECONDS) -> None:
        self._write = write
        self._stop_seconds = stop_seconds
        self._selector = selectors.DefaultSelector()
        self._running: list[_Child] = []
        self._ended: list[_Child] = []
        self._told = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop(*self.running)
        finally:
            for child in self._running:
                child.signal(signal.SIGKILL)
                child.process.wait()
            self._selector.close()

    @property
    def running(self) -> tuple[str, ...]:
        """The names of those that have not ended, in the order in which they were started."""
        return tuple(child.program.name for child in self._running)

    @property
    def all_told(self) -> bool:
        """Whether `ends` has told of all that have ended so far."""
        return self._told == len(self._ended)

    @property
    def worst_code(self) -> int:
        """The largest exit code of those that have ended; one that ended because it was told to counts as 0."""
        return max((child.code or 0 for child in self._ended), default=0)

    def start(self, program: Program) -> None:
        """Start a child. Raises `OSError` when there is no such program."""
        process = subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **program.environment},
            process_group=0,
            preexec_fn=_ending_with(os.getpid()),
        )
        child = _Child(program, process)
        self._running.append(child)
        for stream, is_error in ((process.stdout, False), (process.stderr, True)):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, _Pipe(child, stream, is_error))

    def first_line(self, name: str) -> str | None:
        """Wait for the first line that a child prints on stdout. None when it ends without one."""
        child = next(child for child in self._running if child.program.name == name)
        while child.first_line is None and child in self._running:
            self._look(_LOOK_SECONDS)
        return child.first_line

    def ends(self) -> Iterator[tuple[str, int]]:
        """Follow the output; yield name and exit code as children end, until none is left."""
        while self._running or not self.all_told:
            while not self.all_told:
                child = self._ended[self._told]
                self._told += 1
                yield child.program.name, child.code or 0
            if self._running:
                self._look(_LOOK_SECONDS)

    def wait(self, seconds: float) -> None:
        """Follow the output until all have ended, or for so long."""
        deadline = time.monotonic() + seconds
        while self._running and time.monotonic() < deadline:
            self._look(_LOOK_SECONDS)

    def stop(self, *names: str) -> None:
        """End these children: SIGTERM, and SIGKILL for what still runs after the time limit or at Ctrl-C."""
        chosen = [child for child in self._running if child.program.name in names]
        for child in chosen:
            child.told_to_end = True
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_seconds
        with suppress(KeyboardInterrupt):
            while self._any_runs(chosen) and time.monotonic() < deadline:
                self._look(_LOOK_SECONDS)
        for child in chosen:
            if child in self._running:
                child.signal(signal.SIGKILL)
        while self._any_runs(chosen):
            self._look(_LOOK_SECONDS)

    def _any_runs(self, children: Sequence[_Child]) -> bool:
        return any(child in self._running for child in children)

    def _look(self, seconds: float) -> None:
        """Pass on what comes within this time, and take note of who has ended."""
        for key, _ in self._selector.select(seconds):
            self._read(key.data)
        for child in [child for child in self._running if child.process.poll() is not None]:
            # It may have left others behind that hold its pipes: they go, what they wrote is still read.
            child.signal(signal.SIGKILL)
            for pipe in [key.data for key in self._selector.get_map().values() if key.data.child is child]:
                while self._read(pipe):
                    pass
                self._close(pipe)
            self._running.remove(child)
            self._ended.append(child)

    def _read(self, pipe: _Pipe) -> bool:
        """Pass on the lines that are there. Returns whether to read on: False when there is nothing now, or ever."""
        try:
            data = os.read(pipe.stream.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._close(pipe)
            return False
        *lines, pipe.unfinished = (pipe.unfinished + data).split(b"\n")
        for line in lines:
            self._pass_on(pipe, line)
        return True

    def _close(self, pipe: _Pipe) -> None:
        if pipe.stream.closed:
            return
        self._selector.unregister(pipe.stream)
        pipe.stream.close()
        if pipe.unfinished:
            self._pass_on(pipe, pipe.unfinished)

    def _pass_on(self, pipe: _Pipe, raw: bytes) -> None:
        line = raw.decode(errors="replace").rstrip("\r")
        if pipe.child.first_line is None and not pipe.is_error:
            pipe.child.first_line = line
        self._write(pipe.child.program.name, line, pipe.is_error)


def _ending_with(parent: int) -> Callable[[], None] | None:
    """What a child does before it becomes its program, so that the kernel ends it when this process dies."""
    if sys.platform != "linux":
        return None
    # Looked up before the fork: after it nothing may be loaded.
    prctl = ctypes.CDLL(None).prctl

    def ask_the_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask_the_kernel
