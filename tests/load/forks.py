"""The real commands, started in milliseconds: forked from a process that has imported everything already.

The one rule: what runs is the command's own entry point with its own arguments, in a process, a process group and with
sockets of its own; only the imports, seconds of processor time each, were made before. None outlives its block, nor
this program.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import time
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING

from tests import linux
from tests.bench.processes import Failed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

END_SECONDS = 5.0
ANSWER_SECONDS = 60.0
_LOOK_SECONDS = 0.01
_PASSING_SECONDS = 0.2

_LAST_CHARACTERS = 600

_context = multiprocessing.get_context("forkserver")


def warm_up() -> None:
    """Start the fork server, which takes a few seconds; whatever is started afterwards is started at once."""
    forkserver.set_forkserver_preload(["tests.load.warm"])
    forkserver.ensure_running()


class Fork:
    """A running command. Made by `fork`."""

    def __init__(self, name: str, target: str, arguments: Sequence[str], folder: Path, namespace: str | None) -> None:
        self.name = name
        self._said, self._errors = folder / f"{name}.out", folder / f"{name}.err"
        self._process = _context.Process(
            target=_run, args=(target, list(arguments), self._said, self._errors, namespace), name=name
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        self._stopped = False

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the negative number of the signal that ended it."""
        return self._process.exitcode

    def check(self) -> None:
        """Raise `Failed` when it has ended."""
        if self.exit_code is not None:
            raise self.failure()

    def failure(self) -> Failed:
        said = self._errors.read_text(errors="replace").strip() if self._errors.exists() else ""
        last = f": {said[-_LAST_CHARACTERS:].splitlines()[-1]}" if said else ""
        return Failed(f"{self.name} ended with exit code {self.exit_code}{last}")

    def lines(self, count: int = 1) -> list[str]:
        """Its first lines. Raises `Failed` when it has ended before it said so many, or takes too long."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            text = self._said.read_text() if self._said.exists() else ""
            found = text.splitlines()
            if len(found) >= count and (len(found) > count or text.endswith("\n")):
                return found[:count]
            self.check()
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} has said nothing in {ANSWER_SECONDS:.0f} s")
            time.sleep(_LOOK_SECONDS)

    @property
    def cpu_seconds(self) -> float:
        return linux.cpu_seconds(self.pid)

    @property
    def own_memory_bytes(self) -> int | None:
        """Memory that it shares with nobody; None when the system does not tell.

        What it has from the fork server, the libraries above all, is shared and would be so between real commands.
        """
        with suppress(OSError):
            lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
            return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        return None

    def stop(self) -> None:
        """Stop it as it stands (SIGSTOP)."""
        self._signal(signal.SIGSTOP)
        self._stopped = True

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)
        self._stopped = False

    def wait_a_little(self) -> None:
        """It may be about to end: what it was connected to was seen to be gone before it was."""
        self._process.join(_PASSING_SECONDS)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def ask_to_end(self) -> None:
        self._signal(signal.SIGTERM)
        if self._stopped:
            self.go_on()

    def end(self, seconds: float = END_SECONDS) -> None:
        """Wait until it has ended; kill it when it takes too long."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def _signal(self, number: int) -> None:
        if self._process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def own_memory_bytes(forks: Sequence[Fork]) -> int | None:
    """Of all together; None when the system does not tell."""
    told = [one.own_memory_bytes for one in forks]
    return None if None in told else sum(one or 0 for one in told)


@contextmanager
def fork(
    name: str, target: str, arguments: Sequence[str], folder: Path, *, namespace: str | None = None
) -> Iterator[Fork]:
    """Run `target` ("module:function", called with the arguments) until the end of the block.

    What it says goes to NAME.out and NAME.err in the folder, who it is to NAME.pid. `namespace`: of the network, as
    `ip netns` names it.
    """
    started = Fork(name, target, arguments, folder, namespace)
    try:
        yield started
    finally:
        started.ask_to_end()
        started.end()


def _run(target: str, arguments: list[str], said: Path, errors: Path, namespace: str | None) -> None:
    """In the new process: make it one of its own, then call the command."""
    linux.end_with_parent()
    said.with_suffix(".pid").write_text(f"{os.getpid()}\n")
    # Ctrl-C at the terminal is for the program alone, which then ends us.
    os.setpgid(0, 0)
    for path, descriptor in ((said, 1), (errors, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    if namespace is not None:
        _enter(namespace)
    module, _, function = target.partition(":")
    with contextlib.suppress(KeyboardInterrupt):
        getattr(importlib.import_module(module), function)(arguments)


def _enter(namespace: str) -> None:
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    linux.enter_network(descriptor, namespace)
    os.close(descriptor)
