from __future__ import annotations

import pytest

from leeway.protocol.metrics import Metric, MetricType

COUNTER, GAUGE, HISTOGRAM = MetricType.COUNTER, MetricType.GAUGE, MetricType.HISTOGRAM


@pytest.mark.parametrize(
    "metric",
    [
        Metric("ps_pushes_total", COUNTER, "Pushes.", ("reason",)),
        Metric("ps_lag_iterations", GAUGE, "Lag."),
        Metric("ps_wait_seconds", HISTOGRAM, "Wait.", buckets=(0.1, 1.0)),
    ],
)
def test_metrics_as_they_should_be(metric):
    assert metric.help


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (("x", COUNTER, "h"), "x: counters, and only counters, end in _total"),
        (("x_total", GAUGE, "h"), "x_total: counters, and only counters, end in _total"),
        (("x", HISTOGRAM, "h"), "x: histograms, and only histograms, have buckets"),
        (("x", GAUGE, "h", (), (1.0,)), "x: histograms, and only histograms, have buckets"),
        (("x", HISTOGRAM, "h", (), (2.0, 1.0)), "x: buckets must grow"),
        (("x", HISTOGRAM, "h", (), (1.0, 1.0)), "x: buckets must grow"),
        (("x", GAUGE, ""), "x: a metric without help cannot be understood"),
    ],
)
def test_what_cannot_be_declared(declared, words):
    with pytest.raises(ValueError, match=words):
        Metric(*declared)
