"""What the server tells Prometheus: one method for each thing that happens, one view of what is.

The one rule: what is (clocks, versions, who waits) is read from the state when somebody asks, so a rank's
series are gone with the rank and keeping them costs nothing in between; only what happens is counted.
"""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from protocol.metrics import MetricType
from ps.observability import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from protocol.errors import Code
    from protocol.reasons import Reason
    from protocol.replies import Disposition


# A second series for every counter that says when it was made: nobody asks for it, and it doubles what is scraped.
disable_created_metrics()  # type: ignore[no-untyped-call]


class WorkerState(StrEnum):
    COMPUTING = "computing"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A live worker in a group, as it is now."""

    rank: str
    clock: int
    lag: int
    state: WorkerState


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group, as it is now: newest version's number, versions in memory, live workers."""

    name: str
    version: int
    live_versions: int
    min_clock: int
    workers: Sequence[WorkerView]


class ServerMetrics:
    """The metrics of one server, in a registry of their own. All times are in seconds.

    `groups` is called whenever the metrics are read, on the thread that reads them.
    """

    def __init__(self, groups: Callable[[], Iterable[GroupView]] = tuple) -> None:
        self.registry = registry = CollectorRegistry()
        counted = [metric for metric in catalogue.CATALOGUE if metric not in catalogue.LIVE]
        self._counters = {
            metric: Counter(metric.name, metric.help, metric.labels, registry=registry)
            for metric in counted
            if metric.type is MetricType.COUNTER
        }
        self._gauges = {
            metric: Gauge(metric.name, metric.help, metric.labels, registry=registry)
            for metric in counted
            if metric.type is MetricType.GAUGE
        }
        self._histograms = {
            metric: Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
            for metric in counted
            if metric.type is MetricType.HISTOGRAM
        }
        self._gauges[catalogue.INFO].labels(_program_version()).set(1)
        registry.register(_LiveState(groups))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def answered(self, route: str, method: str, status: int) -> None:
        """A request was answered. `route` is the template of `protocol.routes`, never the path asked for."""
        self._counters[catalogue.REQUESTS].labels(route, method, status).inc()

    def received(self, route: str, size_bytes: int) -> None:
        self._counters[catalogue.RECEIVED_BYTES].labels(route).inc(size_bytes)

    def sent(self, route: str, size_bytes: int) -> None:
        self._counters[catalogue.SENT_BYTES].labels(route).inc(size_bytes)

    def refused(self, code: Code) -> None:
        self._counters[catalogue.REFUSED].labels(code).inc()

    def body_aborted(self) -> None:
        self._counters[catalogue.ABORTED_BODIES].inc()

    def slow_reader_closed(self) -> None:
        self._counters[catalogue.SLOW_READERS_CLOSED].inc()

    def pushed(self, group: str, disposition: Disposition, reason: Reason) -> None:
        """A push got its final disposition. Repeats of it are told the same and are not counted again."""
        self._counters[catalogue.PUSHES].labels(group, disposition, reason).inc()

    def non_finite(self, group: str) -> None:
        self._counters[catalogue.NON_FINITE].labels(group).inc()

    def pull_answered(self, group: str, reason: Reason, waited_seconds: float) -> None:
        """`reason` is the one for which the pull waited last, `GRANTED` when it did not have to."""
        self._histograms[catalogue.PULL_WAIT_SECONDS].labels(group, reason).observe(waited_seconds)

    def round_closed(self, group: str) -> None:
        self._counters[catalogue.ROUNDS].labels(group).inc()

    def stepped(self, group: str, seconds: float, staleness: Iterable[int], gradient_norm: float | None) -> None:
        """A step was published. `staleness` of each update in it; the norm, where it was computed."""
        self._counters[catalogue.STEPS].labels(group).inc()
        self._histograms[catalogue.APPLY_SECONDS].labels(group).observe(seconds)
        for versions in staleness:
            self._histograms[catalogue.STALENESS].labels(group).observe(versions)
        if gradient_norm is not None:
            self._gauges[catalogue.GRADIENT_NORM].labels(group).set(gradient_norm)

    def joined(self) -> None:
        self._counters[catalogue.JOINS].inc()

    def departed(self, reason: Reason) -> None:
        self._counters[catalogue.DEPARTURES].labels(reason).inc()

    def checkpoint_saved(self, seconds: float) -> None:
        self._counters[catalogue.CHECKPOINTS].labels("saved").inc()
        self._histograms[catalogue.CHECKPOINT_SECONDS].observe(seconds)

    def checkpoint_failed(self) -> None:
        self._counters[catalogue.CHECKPOINTS].labels("failed").inc()

    def event_loop_lagged(self, seconds: float) -> None:
        self._histograms[catalogue.EVENT_LOOP_LAG_SECONDS].observe(seconds)


class _LiveState(Collector):
    """Turns the state into samples when it is asked for."""

    def __init__(self, groups: Callable[[], Iterable[GroupView]]) -> None:
        self._groups = groups

    def collect(self) -> Iterable[GaugeMetricFamily]:
        families = self.describe()
        clock, lag, min_clock, version_number, live_versions, workers = families
        for group in self._groups():
            min_clock.add_metric([group.name], group.min_clock)
            version_number.add_metric([group.name], group.version)
            live_versions.add_metric([group.name], group.live_versions)
            states = Tally(worker.state for worker in group.workers)
            for state in WorkerState:
                workers.add_metric([group.name, state], states[state])
            for worker in group.workers:
                clock.add_metric([group.name, worker.rank], worker.clock)
                lag.add_metric([group.name, worker.rank], worker.lag)
        return families

    def describe(self) -> list[GaugeMetricFamily]:
        """The families without samples, in the order of `catalogue.LIVE`. A registry asks for their names."""
        return [GaugeMetricFamily(m.name, m.help, labels=m.labels) for m in catalogue.LIVE]


def _program_version() -> str:
    try:
        return version("leeway")
    except PackageNotFoundError:
        return "unknown"
