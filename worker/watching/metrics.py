"""What a worker tells Prometheus: one method for each thing that happens.

The one rule: nothing here is in the way of training. Recording is memory alone; who reads is served by `serving`.
"""

from __future__ import annotations

from collections import defaultdict
from enum import StrEnum
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from leeway.protocol.metrics import MetricType
from leeway.release import __version__
from leeway.worker.watching import catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client.registry import Collector

    from leeway.protocol.codes import Code
    from leeway.protocol.metrics import Metric
    from leeway.protocol.pushes import Disposition


# A second series for every counter that says when it was made: nobody asks for it, and it doubles what is scraped.
disable_created_metrics()  # type: ignore[no-untyped-call]


class SkipCause(StrEnum):
    """Why an iteration has no update."""

    NON_FINITE = "non-finite"
    TOO_LARGE = "too-large"
    ASKED = "asked"


class WorkerMetrics:
    """The metrics of one worker, in a registry of their own. All times are in seconds."""

    def __init__(self, rank: str, task: str) -> None:
        self.registry = registry = CollectorRegistry(support_collectors_without_names=True)
        self._counters = {
            metric: Counter(metric.name, metric.help, metric.labels, registry=registry)
            for metric in catalogue.CATALOGUE
            if metric.type is MetricType.COUNTER
        }
        self._gauges = {
            metric: Gauge(metric.name, metric.help, metric.labels, registry=registry)
            for metric in catalogue.CATALOGUE
            if metric.type is MetricType.GAUGE
        }
        self._histograms = {
            metric: Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
            for metric in catalogue.CATALOGUE
            if metric.type is MetricType.HISTOGRAM
        }
        # A gauge without labels has a value from the start; before there is a loss, and a staleness, they have none.
        self._without_value = {catalogue.LOSS, catalogue.STALENESS}
        for metric in self._without_value:
            registry.unregister(self._gauges[metric])
        self._of_a_stage = [self._all[metric] for metric in catalogue.OF_A_STAGE]
        for shown in self._of_a_stage:
            registry.unregister(shown)
        self._totals: defaultdict[Metric, int] = defaultdict(int)
        self._who = rank, task, __version__
        self._gauges[catalogue.INFO].labels(*self._who, "", "").set(1)
        ProcessCollector(registry=registry)

    @property
    def _all(self) -> Mapping[Metric, Collector]:
        return {**self._counters, **self._gauges, **self._histograms}

    def began_as_stage(self, stage: int, stages: int) -> None:
        """This process is stage `stage` of `stages`, from now on. Once."""
        info = self._gauges[catalogue.INFO]
        info.clear()
        info.labels(*self._who, stage, stages).set(1)
        for shown in self._of_a_stage:
            self.registry.register(shown)

    def iterated(self, bubble_seconds: float, in_flight: int, activation_bytes: int) -> None:
        """A stage has computed: how long it waited for others meanwhile, and what it held at most."""
        self._histograms[catalogue.BUBBLE_SECONDS].observe(bubble_seconds)
        self._gauges[catalogue.IN_FLIGHT].set(in_flight)
        self._gauges[catalogue.ACTIVATION_BYTES].set(activation_bytes)

    def handed_over(self, sent_bytes: int, received_bytes: int, sent_again: int) -> None:
        """Between stages, so far: the totals since the start."""
        self._reached(catalogue.HANDED_BYTES, sent_bytes)
        self._reached(catalogue.TAKEN_BYTES, received_bytes)
        self._reached(catalogue.HANDOVERS_RESENT, sent_again)

    def dropped_iteration(self) -> None:
        """A stage was lost in the middle of it."""
        self._counters[catalogue.DROPPED_ITERATIONS].inc()

    def computed(self, seconds: float) -> None:
        """From the parameters in the module to an update."""
        self._histograms[catalogue.COMPUTE_SECONDS].observe(seconds)

    def reported(self, figures: Mapping[str, float]) -> None:
        """What the script has told with its update: its loss, and what begins with `HELD_OUT`."""
        for name, value in figures.items():
            if name == "loss":
                self._set(catalogue.LOSS, value)
            elif name.startswith(catalogue.HELD_OUT):
                self._gauges[catalogue.EVALUATION].labels(name.removeprefix(catalogue.HELD_OUT)).set(value)

    def _set(self, metric: Metric, value: float) -> None:
        self._gauges[metric].set(value)
        if metric in self._without_value:
            self._without_value.remove(metric)
            self.registry.register(self._gauges[metric])

    def exchanged(self, sent_bytes: int, received_bytes: int, sent_again: int) -> None:
        """Bytes of all requests and replies, and requests sent again, so far: the totals since the start."""
        self._reached(catalogue.SENT_BYTES, sent_bytes)
        self._reached(catalogue.RECEIVED_BYTES, received_bytes)
        self._reached(catalogue.RECONNECTS, sent_again)

    def _reached(self, counter: Metric, total: int) -> None:
        self._counters[counter].inc(total - self._totals[counter])
        self._totals[counter] = total

    def pushed(self, seconds: float, disposition: Disposition, samples: int) -> None:
        """An update got its final disposition; `samples`: its weight, 0 for one that is in no version."""
        self._histograms[catalogue.PUSH_SECONDS].observe(seconds)
        self._counters[catalogue.PUSHES].labels(disposition).inc()
        self._counters[catalogue.SAMPLES].inc(samples)

    def waited(self, seconds: float) -> None:
        """So long a pull had to wait. The answer does not say for what."""
        self._histograms[catalogue.WAIT_SECONDS].observe(seconds)

    def pulled(self, seconds: float, clock: int, lag: int, staleness: int | None = None) -> None:
        """A pull was granted; `seconds` without the wait. `staleness`: of the update before it, where that is known."""
        self._histograms[catalogue.PULL_SECONDS].observe(seconds)
        self._gauges[catalogue.CLOCK].set(clock)
        self._gauges[catalogue.LAG].set(lag)
        if staleness is not None:
            self._set(catalogue.STALENESS, staleness)

    def stepped(self, seconds: float) -> None:
        """An iteration is over."""
        self._histograms[catalogue.STEP_SECONDS].observe(seconds)

    def skipped(self, cause: SkipCause) -> None:
        self._counters[catalogue.SKIPS].labels(cause).inc()

    def dropped(self, code: Code) -> None:
        """An update is lost: refused, and not to be sent again."""
        self._counters[catalogue.DROPPED].labels(code).inc()

    def rejoined(self, code: Code) -> None:
        """A new life; `code` ended the one before."""
        self._counters[catalogue.REJOINS].labels(code).inc()
