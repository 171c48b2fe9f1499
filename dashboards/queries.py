"""PromQL from the metrics of the catalogues.

The one rule: what cannot be answered cannot be written. A metric that is in no catalogue, a label that it does not
have, the rate of a gauge or the quantile of a counter are errors of the build.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from leeway.protocol.metrics import Metric, MetricType
from leeway.ps.watching import catalogue as server
from leeway.worker.watching import catalogue as worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

UP: Final = Metric("up", MetricType.GAUGE, "1 while Prometheus can read the target. Made by Prometheus.")
RESIDENT_BYTES: Final = Metric("process_resident_memory_bytes", MetricType.GAUGE, "Resident memory.")
CPU_SECONDS: Final = Metric("process_cpu_seconds_total", MetricType.COUNTER, "CPU time, user and system.")
OPEN_FILES: Final = Metric("process_open_fds", MetricType.GAUGE, "Open file descriptors.")
MAX_FILES: Final = Metric("process_max_fds", MetricType.GAUGE, "Largest number of open file descriptors.")
START_TIME: Final = Metric("process_start_time_seconds", MetricType.GAUGE, "Start of the process since 1970.")

FOREIGN: Final = (UP, RESIDENT_BYTES, CPU_SECONDS, OPEN_FILES, MAX_FILES, START_TIME)
"""Every metric in use that is not ours: Prometheus's own, and what its client tells of any process."""

TARGET: Final = ("job", "instance")
"""The labels that Prometheus gives to every series: which of its jobs, which address."""


class Part(StrEnum):
    """The series that a classic histogram consists of."""

    BUCKET = "_bucket"
    COUNT = "_count"
    SUM = "_sum"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which series a query reads, and the `window` over which it takes rates.

    `server` and `worker` are the matchers of every metric of that side; `labels` those that a metric gets when it has
    the label. Raises `ValueError` for questions that the metric cannot answer.
    """

    window: str
    server: tuple[str, ...] = ()
    worker: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def series(self, metric: Metric, *where: str, part: Part | None = None) -> str:
        """The series themselves. `where` are more matchers: `'code!="late"'`."""
        if (part is not None) != (metric.type is MetricType.HISTOGRAM):
            raise ValueError(f"{metric.name}: the parts of a histogram, and only they, are series")
        _known(metric, (re.split(r"\W", matcher)[0] for matcher in where))
        matchers = [*self._side(metric), *where]
        matchers += [matcher for label, matcher in self.labels.items() if label in metric.labels]
        selector = "{" + ", ".join(matchers) + "}" if matchers else ""
        return f"{metric.name}{part or ''}{selector}"

    def rate(self, metric: Metric, *where: str, by: Iterable[str] | None = None, part: Part | None = None) -> str:
        """Growth a second of a counter, or of a histogram's count or sum; summed `by` labels unless that is None."""
        return self._grown("rate", metric, where, by, part)

    def increase(self, metric: Metric, *where: str, by: Iterable[str] | None = None, part: Part | None = None) -> str:
        """Growth within the window."""
        return self._grown("increase", metric, where, by, part)

    def mean(self, metric: Metric, *where: str, by: Iterable[str] = ()) -> str:
        """Mean of what a histogram observed within the window."""
        by = tuple(by)
        total, count = (self.rate(metric, *where, by=by, part=part) for part in (Part.SUM, Part.COUNT))
        return f"{total} / {count}"

    def quantile(self, quantile: float, metric: Metric, *where: str, by: Iterable[str] = ()) -> str:
        """A quantile of what a histogram observed within the window, as fine as its buckets are."""
        buckets = self.rate(metric, *where, by=("le", *by), part=Part.BUCKET)
        return f"histogram_quantile({quantile:g}, {buckets})"

    def buckets(self, metric: Metric, *where: str) -> str:
        """How many observations of the window fell in each bucket: for a heatmap."""
        return self.increase(metric, *where, by=("le",), part=Part.BUCKET)

    def happened(self, metric: Metric, *where: str) -> str:
        """Counters that grew within the window, those that appeared in it included, whose growth no rate can see."""
        series = self.series(metric, *where)
        return f"{self.increase(metric, *where)} > 0 or ({series} unless {series} offset {self.window}) > 0"

    def with_rank(self, expression: str) -> str:
        """Series of workers with their rank as a label; one of `expression` for each process."""
        return f"{expression} * on (job, instance) group_left (rank) {self.series(worker.INFO)}"

    def with_stage(self, expression: str) -> str:
        """Series of the stages of replicas with their rank and stage as labels."""
        info = self.series(worker.INFO, 'stage!=""')
        return f"{expression} * on (job, instance) group_left (rank, stage) {info}"

    def of_servers(self, expression: str) -> str:
        """Of any processes' series those of servers."""
        return f"{expression} and on (job, instance) {self.series(server.INFO)}"

    def _grown(
        self, function: str, metric: Metric, where: tuple[str, ...], by: Iterable[str] | None, part: Part | None
    ) -> str:
        if metric.type is MetricType.GAUGE:
            raise ValueError(f"{metric.name}: a gauge has no {function}")
        grown = f"{function}({self.series(metric, *where, part=part)}[{self.window}])"
        if by is None:
            return grown
        labels = tuple(by)
        _known(metric, (label for label in labels if label != "le" or part is not Part.BUCKET))
        return f"sum by ({', '.join(labels)}) ({grown})" if labels else f"sum ({grown})"

    def _side(self, metric: Metric) -> tuple[str, ...]:
        if metric in worker.CATALOGUE:
            return self.worker
        if metric in server.CATALOGUE or metric in FOREIGN:
            return self.server
        raise ValueError(f"{metric.name} is in no catalogue")


def _known(metric: Metric, labels: Iterable[str]) -> None:
    unknown = set(labels) - {*metric.labels, *TARGET}
    if unknown:
        raise ValueError(f"{metric.name} has no label {', '.join(sorted(unknown))}; it has {', '.join(metric.labels)}")
