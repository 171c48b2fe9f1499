"""What a worker tells Prometheus: one method for each thing that happens, and the small server for `/metrics`.

The one rule: nothing here is in the way of training. Recording is memory alone; a reader is served by a thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from leeway.errors import SettingError
from leeway.protocol.metrics import MetricType
from leeway.release import __version__
from leeway.worker.watching import catalogue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from leeway.protocol.codes import Code
    from leeway.protocol.pushes import Disposition
    from leeway.protocol.reasons import Reason


# A second series for every counter that says when it was made: nobody asks for it, and it doubles what is scraped.
disable_created_metrics()  # type: ignore[no-untyped-call]


class SkipCause(StrEnum):
    """Why an iteration has no update."""

    NON_FINITE = "non-finite"
    NO_DATA = "no-data"


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
        # A gauge without labels has a value from the start; before the first batch there is no loss.
        registry.unregister(self._gauges[catalogue.LOSS])
        self._has_loss = False
        self._sent_bytes = self._received_bytes = self._sent_again = 0
        self._gauges[catalogue.INFO].labels(rank, task, __version__).set(1)
        ProcessCollector(registry=registry)

    def computed(self, seconds: float, loss: float) -> None:
        """Forward and backward pass are done."""
        self._histograms[catalogue.COMPUTE_SECONDS].observe(seconds)
        self._gauges[catalogue.LOSS].set(loss)
        if not self._has_loss:
            self._has_loss = True
            self.registry.register(self._gauges[catalogue.LOSS])

    def evaluated(self, figures: Mapping[str, float]) -> None:
        """Figures on the held-out data, by name."""
        for figure, value in figures.items():
            self._gauges[catalogue.EVALUATION].labels(figure).set(value)

    def exchanged(self, sent_bytes: int, received_bytes: int, sent_again: int) -> None:
        """Bytes of all requests and replies, and requests sent again, so far: the totals since the start."""
        self._counters[catalogue.SENT_BYTES].inc(sent_bytes - self._sent_bytes)
        self._counters[catalogue.RECEIVED_BYTES].inc(received_bytes - self._received_bytes)
        self._counters[catalogue.RECONNECTS].inc(sent_again - self._sent_again)
        self._sent_bytes, self._received_bytes, self._sent_again = sent_bytes, received_bytes, sent_again

    def pushed(self, seconds: float, disposition: Disposition, samples: int) -> None:
        """An update got its final disposition; `samples` is its weight."""
        self._histograms[catalogue.PUSH_SECONDS].observe(seconds)
        self._counters[catalogue.PUSHES].labels(disposition).inc()
        self._counters[catalogue.SAMPLES].inc(samples)

    def waited(self, seconds: float, reason: Reason) -> None:
        """A pull had to wait."""
        self._histograms[catalogue.WAIT_SECONDS].labels(reason).observe(seconds)

    def pulled(self, seconds: float, clock: int, lag: int) -> None:
        """A pull was granted; `seconds` without the wait."""
        self._histograms[catalogue.PULL_SECONDS].observe(seconds)
        self._gauges[catalogue.CLOCK].set(clock)
        self._gauges[catalogue.LAG].set(lag)

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

    def serve(self, host: str, port: int) -> MetricsServer:
        """Answer `GET /metrics` until `close()`. Raises `SettingError` when the address cannot be had."""
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise SettingError(
                f"--metrics-port {port} at {host} cannot be had: {error.strerror}; choose another, or 0 for a free one"
            ) from error
        return MetricsServer(server, thread)


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """A running server of metrics."""

    _server: WSGIServer
    _thread: Thread

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        name = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{name}:{port}/metrics"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
