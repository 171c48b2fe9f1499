"""Watches a run of Leeway from outside: what is asked for while it runs, and what is made of that in the end.

The one rule: figures are differences between two readings, so that a server that has run before is measured like a
fresh one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.load.forks import Fork, own_memory_bytes
from tests.load.trials import Costs, Histogram, Snapshot, between

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.load.reader import Metrics, Reader

GROUP = "default"
UPDATES = "/v1/updates"
PARAMS = "/v1/params"


@dataclass(frozen=True, slots=True)
class Look:
    """The status of a moment (`time.monotonic`)."""

    at: float
    status: Mapping[str, Any]

    @property
    def group(self) -> Mapping[str, Any]:
        group: Mapping[str, Any] = self.status["groups"][GROUP]
        return group

    @property
    def version(self) -> int:
        return int(self.group["version"])

    @property
    def updates(self) -> int:
        return int(self.group["updates"])

    @property
    def staleness(self) -> Histogram:
        told = self.group["staleness"]
        return Histogram(tuple(told["bounds"]), tuple(told["counts"]))

    def workers(self, ranks: Sequence[str]) -> dict[tuple[str, int], Mapping[str, Any]]:
        """What is told of the live ones among these ranks, by rank and incarnation."""
        return {
            (one["rank"], one["incarnation"]): one["groups"][GROUP]
            for one in self.status["workers"]
            if one["rank"] in ranks and GROUP in one["groups"]
        }


class Watch:
    """Begins when it is made, with the run under way. `forgotten_updates`: those of runs before this one."""

    def __init__(
        self, reader: Reader, ranks: Sequence[str], server: Fork | None, workers: Sequence[Fork], forgotten: int
    ) -> None:
        self._reader = reader
        self._ranks = ranks
        self._server = server
        self._workers = workers
        self._forgotten_updates = forgotten
        self.begin = self._look()
        self._looks = [self.begin]
        self._before = self._read()
        self._downloads: list[tuple[float, int, bytes]] = []
        self._waited: dict[tuple[str, int], tuple[float, float]] = {}
        self._middle: Look | None = None
        self._after: _Reading | None = None
        self.costs = Costs()

    def take(self, half_time: bool) -> None:
        """Look once, and keep the newest parameters. `half_time`: the second half has begun."""
        look = self._look()
        self._looks.append(look)
        if half_time and self._middle is None:
            self._middle = look
        for life, told in look.workers(self._ranks).items():
            first, _ = self._waited.get(life, (self._before_waiting(life), 0.0))
            self._waited[life] = first, told["waiting_seconds"]
        asked = time.monotonic()
        downloaded = self._reader.download()
        if downloaded is not None:
            self._downloads.append((asked, *downloaded))

    def finish(self) -> None:
        """Read what is read once, at the end, while everybody still runs."""
        self._after = self._read()
        spent = self._after.minus(self._before)
        self.costs = Costs(
            network_bytes=spent["network"],
            server_cpu_seconds=spent["server"],
            worker_cpu_seconds=spent["workers"],
            server_memory_bytes=self._server.own_memory_bytes if self._server else self._after.memory_bytes,
            worker_memory_bytes=own_memory_bytes(self._workers),
        )

    @property
    def end(self) -> Look:
        return self._looks[-1]

    @property
    def seconds(self) -> float:
        return self.end.at - self.begin.at

    @property
    def steps(self) -> int:
        return self.end.version - self.begin.version

    @property
    def updates(self) -> int:
        return self.end.updates - self.begin.updates

    @property
    def staleness(self) -> Histogram:
        return self.end.staleness.since(self.begin.staleness)

    @property
    def waiting(self) -> dict[str, float]:
        """The share of its time in which each rank waited, over all of its lives."""
        waited = dict.fromkeys(self._ranks, 0.0)
        for (rank, _), (first, last) in self._waited.items():
            waited[rank] += max(0.0, last - first)
        return {rank: seconds / self.seconds for rank, seconds in waited.items()} if self.seconds else {}

    @property
    def paces(self) -> dict[str, float]:
        """Iterations per second in the second half, of the ranks that were there for all of it."""
        if self._middle is None or self.end.at <= self._middle.at:
            return {}
        before, after = self._middle.workers(self._ranks), self.end.workers(self._ranks)
        seconds = self.end.at - self._middle.at
        return {life[0]: (after[life]["clock"] - before[life]["clock"]) / seconds for life in before if life in after}

    @property
    def lag(self) -> Histogram | None:
        return self._after.lag.since(self._before.lag) if self._after else None

    def snapshots(self) -> list[Snapshot]:
        """The downloaded versions, with the number of updates in them."""
        known = [(look.version, look.updates) for look in self._looks]
        return [
            Snapshot(asked - self.begin.at, updates_of(version, known) - self._forgotten_updates, body)
            for asked, version, body in self._downloads
        ]

    def _look(self) -> Look:
        status = self._reader.status()
        return Look(time.monotonic(), status)

    def _read(self) -> _Reading:
        return _Reading.of(self._reader.metrics(), self._reader.downloaded_bytes, self._workers)

    def _before_waiting(self, life: tuple[str, int]) -> float:
        told = self.begin.workers(self._ranks).get(life)
        return float(told["waiting_seconds"]) if told else 0.0


@dataclass(frozen=True, slots=True)
class _Reading:
    """Counters at a moment."""

    network_bytes: float
    server_cpu_seconds: float
    worker_cpu_seconds: float
    memory_bytes: float
    lag: Histogram

    @classmethod
    def of(cls, metrics: Metrics, downloaded_bytes: int, workers: Sequence[Fork]) -> _Reading:
        moved = sum(
            metrics.sum(f"leeway_server_{direction}_bytes_total", route=route)
            for direction in ("received", "sent")
            for route in (UPDATES, PARAMS)
        )
        return cls(
            network_bytes=moved - downloaded_bytes,
            server_cpu_seconds=metrics.sum("process_cpu_seconds_total"),
            worker_cpu_seconds=sum(worker.cpu_seconds for worker in workers),
            memory_bytes=metrics.sum("process_resident_memory_bytes"),
            lag=metrics.histogram("leeway_server_grant_lag", group=GROUP),
        )

    def minus(self, before: _Reading) -> dict[str, float]:
        return {
            "network": self.network_bytes - before.network_bytes,
            "server": self.server_cpu_seconds - before.server_cpu_seconds,
            "workers": self.worker_cpu_seconds - before.worker_cpu_seconds,
        }


def updates_of(version: int, known: Sequence[tuple[int, int]]) -> float:
    """How many updates are in a version, on straight lines between known pairs of (version, updates), in order."""
    updates = between(known, version)
    return known[-1][1] if updates is None else updates
