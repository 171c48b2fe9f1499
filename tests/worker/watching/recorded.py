"""A worker's metrics after everything has happened that they tell of."""

from __future__ import annotations

from leeway.protocol.codes import Code
from leeway.protocol.pushes import Disposition
from leeway.worker.watching.metrics import SkipCause, WorkerMetrics


def with_everything_recorded() -> WorkerMetrics:
    metrics = WorkerMetrics("w0", "digits")
    metrics.began_as_stage(1, 4)
    metrics.iterated(0.05, in_flight=3, activation_bytes=4096)
    metrics.handed_over(1000, 2000, 1)
    metrics.dropped_iteration()
    metrics.pulled(0.01, clock=7, lag=2, staleness=3)
    metrics.waited(0.3)
    metrics.computed(0.1)
    metrics.reported({"loss": 0.25, "test_accuracy": 0.75, "test_loss": 0.5, "epoch": 3.0})
    metrics.exchanged(300, 500, 1)
    metrics.pushed(0.02, Disposition.APPLIED, samples=64)
    metrics.stepped(0.4)
    metrics.skipped(SkipCause.ASKED)
    metrics.dropped(Code.OLD_EPOCH)
    metrics.rejoined(Code.EVICTED)
    return metrics
