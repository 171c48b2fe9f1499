"""What the server tells Prometheus: one method for each thing that happens, one view of what is.

The one rule: what is (clocks, versions, who waits) is read from the state when somebody asks, so a rank's
series are gone with the rank and keeping them costs nothing in between; only what happens is counted.
"""

from __future__ import annotations

import math
from collections import Counter as Tally
from dataclasses import dataclass, field
from enum import StrEnum
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
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from leeway.protocol import routes
from leeway.protocol.metrics import MetricType
from leeway.protocol.reasons import Reason
from leeway.ps.watching import catalogue
from leeway.release import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from leeway.protocol.codes import Code
    from leeway.protocol.metrics import Metric
    from leeway.protocol.pushes import Disposition

    Family = CounterMetricFamily | GaugeMetricFamily


# A second series for every counter that says when it was made: nobody asks for it, and it doubles what is scraped.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Counters whose labels are known beforehand begin at 0: the first event is then an increase, which a rate sees.
_ENDINGS = (Reason.LEFT, Reason.LEASE_EXPIRED, Reason.ITERATION_TOO_LONG, Reason.NEW_SESSION)
_OUTCOMES = ("saved", "failed")


class WorkerState(StrEnum):
    COMPUTING = "computing"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A live worker in a group, as it is now.

    `waiting_seconds`: how long its pulls have waited; `held_seconds`: how long others have waited for it. `reported`:
    the figures of its last push, the same in each group; None stands for one that is not finite.
    """

    rank: str
    clock: int
    lag: int
    state: WorkerState
    waiting_seconds: float = 0.0
    held_seconds: float = 0.0
    reported: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group, as it is now: newest version's number, versions in memory, live workers, the policy in force.

    `staleness_bound` None: the policy has none. `learning_rate`: of the next step. `missing_stages`: of each replica
    whose life has not begun, how many are not there.
    """

    name: str
    version: int
    live_versions: int
    min_clock: int
    workers: Sequence[WorkerView]
    policy: str
    staleness_bound: int | None
    learning_rate: float
    missing_stages: Mapping[str, int] = field(default_factory=dict)


class ServerMetrics:
    """The metrics of one server, in a registry of their own. All times are in seconds.

    `groups` is called whenever the metrics are read, on the thread that reads them.
    """

    def __init__(self, groups: Callable[[], Iterable[GroupView]] = tuple) -> None:
        self.registry = registry = CollectorRegistry(support_collectors_without_names=True)
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
        # A gauge without labels has a value from the start; these have none where nothing is saved, or without TLS.
        for metric in (catalogue.CHECKPOINT_TIMESTAMP, catalogue.CERTIFICATE_EXPIRY):
            registry.unregister(self._gauges[metric])
        self._is_encrypted = False
        self._gauges[catalogue.INFO].labels(__version__).set(1)
        for reason in _ENDINGS:
            self._counters[catalogue.DEPARTURES].labels(reason)
        for outcome in _OUTCOMES:
            self._counters[catalogue.CHECKPOINTS].labels(outcome)
        for closing in catalogue.CLOSINGS:
            self._counters[catalogue.CONNECTIONS_CLOSED].labels(closing)
        for listener in catalogue.LISTENERS:
            self._counters[catalogue.LISTENER_FAILURES].labels(listener)
        registry.register(_LiveState(groups))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def begin_group(self, group: str) -> None:
        """There is such a group: whatever is counted for it begins at 0."""
        for metrics in (self._counters, self._histograms):
            for metric, counted in metrics.items():
                if metric.labels == ("group",):
                    counted.labels(group)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is the template of `leeway.protocol.routes`, never the path asked for.

        `seconds` from its headers to the end of the answer.
        """
        self._counters[catalogue.REQUESTS].labels(route, method, status).inc()
        if route != routes.EVENTS:  # that stream lasts as long as somebody watches
            self._histograms[catalogue.REQUEST_SECONDS].labels(route).observe(seconds)

    def received(self, route: str, size_bytes: int) -> None:
        self._counters[catalogue.RECEIVED_BYTES].labels(route).inc(size_bytes)

    def sent(self, route: str, size_bytes: int) -> None:
        self._counters[catalogue.SENT_BYTES].labels(route).inc(size_bytes)

    def spared(self, group: str, size_bytes: int) -> None:
        """A pull was granted to somebody who has that version already."""
        self._counters[catalogue.SPARED_BYTES].labels(group).inc(size_bytes)

    def refused(self, route: str, code: Code) -> None:
        """`route` as in `answered`. A pull refused in the answer to an accepted push is one of the pulls' route."""
        self._counters[catalogue.REFUSED].labels(route, code).inc()

    def body_aborted(self) -> None:
        self._counters[catalogue.ABORTED_BODIES].inc()

    def slow_reader_closed(self) -> None:
        self._counters[catalogue.SLOW_READERS_CLOSED].inc()

    def connection_closed(self, reason: str) -> None:
        self._counters[catalogue.CONNECTIONS_CLOSED].labels(reason).inc()

    def pushed(self, group: str, disposition: Disposition, reason: Reason) -> None:
        """A push got its final disposition. Repeats of it are told the same and are not counted again."""
        self._counters[catalogue.PUSHES].labels(group, disposition, reason).inc()

    def late(self, group: str, samples: int) -> None:
        """An update was dropped because its round had closed."""
        self._counters[catalogue.LATE_SAMPLES].labels(group).inc(samples)

    def non_finite(self, group: str) -> None:
        self._counters[catalogue.NON_FINITE].labels(group).inc()

    def non_finite_version(self, group: str) -> None:
        self._counters[catalogue.NON_FINITE_VERSIONS].labels(group).inc()

    def pull_answered(self, group: str, reason: Reason, waited_seconds: float) -> None:
        """`reason` is the one for which the pull waited last, `GRANTED` when it did not have to."""
        self._histograms[catalogue.PULL_WAIT_SECONDS].labels(group, reason).observe(waited_seconds)

    def pull_granted(self, group: str, lag: int) -> None:
        """To a worker that is so many iterations ahead of the slowest."""
        self._histograms[catalogue.GRANT_LAG].labels(group).observe(lag)

    def round_closed(self, group: str, open_seconds: float) -> None:
        self._histograms[catalogue.ROUND_SECONDS].labels(group).observe(open_seconds)

    def round_without_step(self, group: str) -> None:
        """It closed with too few updates for its aggregation rule."""
        self._counters[catalogue.ROUNDS_WITHOUT_STEP].labels(group).inc()

    def switched(self, group: str) -> None:
        self._counters[catalogue.SWITCHES].labels(group).inc()

    def stepped(
        self,
        group: str,
        seconds: float,
        staleness: Iterable[int],
        update_bytes: Iterable[int],
        gradient_norm: float | None,
    ) -> None:
        """A step was made. `staleness` and size of each update in it; the norm, where it was measured."""
        self._counters[catalogue.STEPS].labels(group).inc()
        self._histograms[catalogue.APPLY_SECONDS].labels(group).observe(seconds)
        for versions in staleness:
            self._histograms[catalogue.STALENESS].labels(group).observe(versions)
        for size_bytes in update_bytes:
            self._histograms[catalogue.UPDATE_BYTES].labels(group).observe(size_bytes)
        if gradient_norm is not None:
            self._gauges[catalogue.GRADIENT_NORM].labels(group).set(gradient_norm)

    def step_failed(self, group: str) -> None:
        self._counters[catalogue.FAILED_STEPS].labels(group).inc()

    def listener_failed(self, listener: str) -> None:
        """`listener`: one of `catalogue.LISTENERS`."""
        self._counters[catalogue.LISTENER_FAILURES].labels(listener).inc()

    def joined(self) -> None:
        self._counters[catalogue.JOINS].inc()

    def departed(self, reason: Reason) -> None:
        self._counters[catalogue.DEPARTURES].labels(reason).inc()

    def quarantined(self, ranks: int) -> None:
        """So many are kept out now."""
        self._gauges[catalogue.QUARANTINED].set(ranks)

    def insecure(self, *, insecure: bool) -> None:
        """Whether anybody gets in who is not on this machine."""
        self._gauges[catalogue.INSECURE].set(insecure)

    def certificate_ends(self, time: float) -> None:
        """`time` in seconds since 1970."""
        if not self._is_encrypted:
            self._is_encrypted = True
            self.registry.register(self._gauges[catalogue.CERTIFICATE_EXPIRY])
        self._gauges[catalogue.CERTIFICATE_EXPIRY].set(time)

    def begin_checkpoints(self, time: float) -> None:
        """There will be checkpoints, but none has been written yet. `time` in seconds since 1970."""
        self.registry.register(self._gauges[catalogue.CHECKPOINT_TIMESTAMP])
        self._gauges[catalogue.CHECKPOINT_TIMESTAMP].set(time)

    def checkpoint_saved(self, seconds: float, size_bytes: int, time: float) -> None:
        """`time` in seconds since 1970. After `begin_checkpoints`."""
        self._counters[catalogue.CHECKPOINTS].labels("saved").inc()
        self._counters[catalogue.CHECKPOINT_BYTES].inc(size_bytes)
        self._gauges[catalogue.CHECKPOINT_TIMESTAMP].set(time)
        self._histograms[catalogue.CHECKPOINT_SECONDS].observe(seconds)

    def checkpoint_failed(self) -> None:
        self._counters[catalogue.CHECKPOINTS].labels("failed").inc()

    def event_loop_lagged(self, seconds: float) -> None:
        self._histograms[catalogue.EVENT_LOOP_LAG_SECONDS].observe(seconds)

    def left_out(self, count: int) -> None:
        self._counters[catalogue.FIGURES_LEFT_OUT].inc(count)

    def paused(self, seconds: float) -> None:
        self._counters[catalogue.PAUSED_SECONDS].inc(seconds)


class _LiveState(Collector):
    """Turns the state into samples when it is asked for."""

    def __init__(self, groups: Callable[[], Iterable[GroupView]]) -> None:
        self._groups = groups

    def collect(self) -> Iterable[Family]:
        families = {metric: _family(metric) for metric in catalogue.LIVE}
        groups = list(self._groups())
        for group in groups:
            _add_group(families, group)
        reported = {worker.rank: worker.reported for group in groups for worker in group.workers}
        for rank, figures in reported.items():
            for name, value in figures.items():
                families[catalogue.REPORTED].add_metric([rank, name], math.nan if value is None else value)
        return families.values()

    def describe(self) -> Iterable[Family]:
        """The families without samples: a registry asks for their names."""
        return [_family(metric) for metric in catalogue.LIVE]


def _family(metric: Metric) -> Family:
    kind = CounterMetricFamily if metric.type is MetricType.COUNTER else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)


def _add_group(families: Mapping[Metric, Family], group: GroupView) -> None:
    of_group = [group.name]
    families[catalogue.MIN_CLOCK].add_metric(of_group, group.min_clock)
    families[catalogue.VERSION].add_metric(of_group, group.version)
    families[catalogue.LIVE_VERSIONS].add_metric(of_group, group.live_versions)
    families[catalogue.LEARNING_RATE].add_metric(of_group, group.learning_rate)
    families[catalogue.POLICY].add_metric([group.name, group.policy], 1)
    if group.staleness_bound is not None:
        families[catalogue.STALENESS_BOUND].add_metric(of_group, group.staleness_bound)
    states = Tally(worker.state for worker in group.workers)
    for state in WorkerState:
        families[catalogue.WORKERS].add_metric([group.name, state], states[state])
    for rank, missing in group.missing_stages.items():
        families[catalogue.STAGES_MISSING].add_metric([group.name, rank], missing)
    for worker in group.workers:
        of_worker = [group.name, worker.rank]
        families[catalogue.CLOCK].add_metric(of_worker, worker.clock)
        families[catalogue.LAG].add_metric(of_worker, worker.lag)
        families[catalogue.WAITING_SECONDS].add_metric(of_worker, worker.waiting_seconds)
        families[catalogue.BARRIER_HELD_SECONDS].add_metric(of_worker, worker.held_seconds)
