"""Runs the story: a server and three workers; one is killed, and comes back. The server stays until the block ends."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tests.demo.reader import Reader
from tests.demo.stage import Ended, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.demo.gpt.plan import Plan

GROUP = "default"
LOOK_SECONDS = 0.2

# The story takes about a minute; where it takes this long something hangs.
LIMIT_SECONDS = 600.0

Status = dict[str, Any]


class Watcher(Protocol):
    def begin(self, address: str) -> None:
        """The server answers at this address; its workers start now."""
        ...

    def show(self, status: dict[str, Any]) -> None:
        """The state of the run has been looked at, as `GET /v1/status` gives it."""
        ...

    def tell(self, what: str) -> None:
        """Something has happened, which the state that was shown last is the first to show."""
        ...


@dataclass(frozen=True, slots=True)
class Story:
    """What a run leaves. `killed_at`: in seconds since the server's start, by its clock; `versions`: what was
    downloaded, by number. On `stage` the server of this `address` still runs."""

    history: Path
    versions: dict[int, bytes]
    killed_at: float
    stage: Stage
    address: str


@contextmanager
def run(plan: Plan, folder: Path, watcher: Watcher) -> Iterator[Story]:
    """Raises `RunFailed`."""
    history = folder / "history.jsonl"
    history.unlink(missing_ok=True)
    with Stage(folder / "run.log") as stage:
        with stage.explaining():
            address = stage.serve([*_server_flags(plan), "--history", str(history)])
            watcher.begin(address)
            killed_at, versions = _Play(stage, address, plan, watcher).to_the_end()
        yield Story(history, versions, killed_at, stage, address)
        with stage.explaining():
            stage.stop()


class _Play:
    def __init__(self, stage: Stage, address: str, plan: Plan, watcher: Watcher) -> None:
        self._stage = stage
        self._address = address
        self._plan = plan
        self._watcher = watcher
        self._reader = Reader(address)
        self._deadline = time.monotonic() + LIMIT_SECONDS

    def to_the_end(self) -> tuple[float, dict[int, bytes]]:
        plan, victim = self._plan, self._plan.victim
        for rank in plan.naps:
            self._start(rank)
        killed = self._until(lambda status: _clocks(status).get(victim, 0) >= plan.kill_at)
        self._stage.kill(victim)
        self._watcher.tell(f"{victim} is killed at iteration {_clocks(killed)[victim]}: nobody is told")
        self._until(lambda status: victim not in _clocks(status))
        self._watcher.tell(f"{victim} was silent for {plan.lease_seconds:g} s and is evicted: the others go on")
        self._until(lambda status: min(_clocks(status).values(), default=0) >= plan.return_at)
        self._watcher.tell(f"{victim} is started again, under its name")
        self._start(victim)
        back = self._until(lambda status: victim in _clocks(status))
        self._watcher.tell(f"{victim} is back: it goes on where the others are, at {_clocks(back)[victim]}")
        end = _clocks(back)[victim] + plan.more
        self._until(lambda status: _clocks(status).get(victim, 0) >= end)
        self._stage.dismiss()
        self._reader.download()
        self._reader.close()
        return killed["uptime_seconds"], self._reader.versions

    def _start(self, rank: str) -> None:
        place = {"PS_SERVER": self._address, "PS_RANK": rank}
        together = len(self._plan.naps)
        self._stage.start(rank, "tests.demo.gpt.train", [str(self._plan.naps[rank]), str(together)], place)

    def _until(self, happened: Callable[[Status], bool]) -> Status:
        """Look on, and keep the newest version each time, until this has happened. Raises `Ended`."""
        while True:
            status = self._reader.status()
            self._watcher.show(status)
            if status["groups"][GROUP]["version"]:
                self._reader.download()
            if happened(status):
                return status
            if time.monotonic() > self._deadline:
                raise Ended(f"the story was not over after {LIMIT_SECONDS:.0f} s")
            self._stage.wait(LOOK_SECONDS)


def _clocks(status: Status) -> dict[str, int]:
    return {worker["rank"]: worker["groups"][GROUP]["clock"] for worker in status["workers"]}


def _server_flags(plan: Plan) -> list[str]:
    flags = {
        "--mode": "ssp",
        "--staleness": plan.staleness,
        "--workers": len(plan.naps),
        "--lease": f"{plan.lease_seconds:g}",
    }
    return [text for flag, value in flags.items() for text in (flag, str(value))]
