"""The server's own figures while it is under load: bytes, how late its event loop is, memory and processor time.

The one rule: watching must not be the load. Only the few series that are needed are asked for (`name[]`, which the
server's `/metrics` understands), and only before and after: a page with a thousand ranks on it would hold up the very
loop that is measured. Memory and processor time come from where `process_resident_memory_bytes` and
`process_cpu_seconds_total` come from, without asking the server: the system.
"""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.server import fetch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from tests.bench.processes import Process

_LAG = "leeway_server_event_loop_lag_seconds"
_RECEIVED, _SENT = "leeway_server_received_bytes_total", "leeway_server_sent_bytes_total"
_NAMES = (_RECEIVED, _SENT, *(f"{_LAG}_{part}" for part in ("bucket", "sum", "count")))

# How often the server's memory is looked at.
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Reading:
    """At one moment. Bytes by route. `lag_buckets`: how many delays of the event loop were at most so many seconds."""

    received_bytes: Mapping[str, int]
    sent_bytes: Mapping[str, int]
    lag_seconds: float
    lag_count: int
    lag_buckets: Mapping[float, int]


def read(url: str) -> Reading:
    """Ask the server at `url`. Raises `OSError` when it does not answer."""
    query = urlencode([("name[]", name) for name in _NAMES])
    return parse(fetch(f"{url}/metrics?{query}")[0].decode())


def parse(page: str) -> Reading:
    """A page of metrics. What is not on it counts as 0."""
    totals: dict[str, float] = {}
    by_route: dict[str, dict[str, int]] = {_RECEIVED: {}, _SENT: {}}
    buckets: dict[float, int] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in by_route:
                by_route[sample.name][sample.labels["route"]] = int(sample.value)
            elif sample.name == f"{_LAG}_bucket":
                buckets[float(sample.labels["le"])] = int(sample.value)
            else:
                totals[sample.name] = sample.value
    return Reading(
        by_route[_RECEIVED],
        by_route[_SENT],
        totals.get(f"{_LAG}_sum", 0.0),
        int(totals.get(f"{_LAG}_count", 0)),
        buckets,
    )


def lag_quantile(before: Reading, after: Reading, share: float) -> float | None:
    """The delay of the event loop that this share of its timers kept between two readings, in seconds.

    Between the bounds of a bucket it is interpolated, as Prometheus' `histogram_quantile` does; beyond the last bound
    it is infinite. None when nothing was counted.
    """
    counted = after.lag_count - before.lag_count
    if not counted:
        return None
    wanted, low, below = share * counted, 0.0, 0
    for bound in sorted(after.lag_buckets):
        reached = after.lag_buckets[bound] - before.lag_buckets.get(bound, 0)
        if reached >= wanted:
            return bound if math.isinf(bound) else low + (bound - low) * (wanted - below) / (reached - below)
        low, below = bound, reached
    return math.inf


def lag_mean(before: Reading, after: Reading) -> float | None:
    counted = after.lag_count - before.lag_count
    return (after.lag_seconds - before.lag_seconds) / counted if counted else None


class Watch:
    """A server's process from the `with` block's begin to its end.

    `resident_bytes`: the most memory it held, None where the system does not tell; `cores`: how many processors it kept
    busy on average.
    """

    def __init__(self, process: Process) -> None:
        self.resident_bytes: int | None = None
        self.cores = 0.0
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._began, self._cpu_seconds = time.monotonic(), self._process.cpu_seconds
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.cores = (self._process.cpu_seconds - self._cpu_seconds) / (time.monotonic() - self._began)

    def _look_on(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        with suppress(OSError):
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
            self.resident_bytes = max(self.resident_bytes or 0, pages * os.sysconf("SC_PAGE_SIZE"))
