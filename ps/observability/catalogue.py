"""Every metric of the server, as data.

The one rule: labels are bounded. Routes are templates, reasons and codes are the fixed sets of `protocol`, and
the only name that users choose freely beside a group's, the rank, is shown for live workers alone.
"""

from __future__ import annotations

from typing import Final

from protocol.metrics import Metric, MetricType

# From a reply out of memory on loopback to a round that waits for a straggler.
_WAIT_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
# From a step on a few kilobytes to Adam on gigabytes.
_STEP_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# From a good loop's timer jitter to a heartbeat's despair.
_LOOP_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# Fibonacci: fine where healthy runs are, and beyond the largest bound in common use.
_VERSIONS = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0)


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"leeway_server_{name}", MetricType.COUNTER, help, labels)


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"leeway_server_{name}", MetricType.GAUGE, help, labels)


def _histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(f"leeway_server_{name}", MetricType.HISTOGRAM, help, labels, buckets)


INFO: Final = _gauge("info", "Always 1; the label says which version of the program runs.", "version")

REQUESTS: Final = _counter("requests_total", "Requests answered.", "route", "method", "status")
RECEIVED_BYTES: Final = _counter("received_bytes_total", "Bytes of request bodies read.", "route")
SENT_BYTES: Final = _counter("sent_bytes_total", "Bytes of response bodies written.", "route")
REFUSED: Final = _counter("refused_total", "Requests refused, by the code of the problem document.", "code")
ABORTED_BODIES: Final = _counter(
    "aborted_bodies_total", "Request bodies whose sender went away in the middle; nothing was applied."
)
SLOW_READERS_CLOSED: Final = _counter(
    "slow_readers_closed_total", "Connections closed because they read so slowly that old versions piled up."
)

PUSHES: Final = _counter("pushes_total", "Updates that got their final disposition.", "group", "disposition", "reason")
NON_FINITE: Final = _counter("non_finite_total", "Updates with NaN or infinity in them.", "group")
PULL_WAIT_SECONDS: Final = _histogram(
    "pull_wait_seconds",
    "Time from a pull's arrival to its answer, by the reason for which it waited last (granted: it did not).",
    _WAIT_SECONDS,
    "group",
    "reason",
)
STALENESS: Final = _histogram(
    "staleness",
    "Versions published between the one an update was computed from and the one it produced (0 = fresh).",
    _VERSIONS,
    "group",
)
ROUNDS: Final = _counter("rounds_total", "Rounds of sync that were closed.", "group")
STEPS: Final = _counter("steps_total", "Optimizer steps; each published a version.", "group")
APPLY_SECONDS: Final = _histogram(
    "apply_seconds", "Time of one step: aggregation, optimizer, publication.", _STEP_SECONDS, "group"
)
GRADIENT_NORM: Final = _gauge("gradient_norm", "L2 norm of the newest step's gradient, before clipping.", "group")

CLOCK: Final = _gauge("clock", "Index of a live worker's next iteration.", "group", "rank")
LAG: Final = _gauge("lag", "Iterations that a live worker is ahead of the slowest.", "group", "rank")
MIN_CLOCK: Final = _gauge("min_clock", "Smallest clock over the live workers.", "group")
VERSION: Final = _gauge("version", "Number of the newest published version.", "group")
LIVE_VERSIONS: Final = _gauge("live_versions", "Versions held in memory; at most 4.", "group")
WORKERS: Final = _gauge("workers", "Live workers by what they do.", "group", "state")

JOINS: Final = _counter("joins_total", "Lives of workers that began.")
DEPARTURES: Final = _counter(
    "departures_total",
    "Lives of workers that ended; lease-expired and iteration-too-long are evictions.",
    "reason",
)

CHECKPOINTS: Final = _counter("checkpoints_total", "Checkpoints, by outcome: saved or failed.", "outcome")
CHECKPOINT_SECONDS: Final = _histogram(
    "checkpoint_seconds", "Time to save a checkpoint, to the last fsync.", _WAIT_SECONDS
)
EVENT_LOOP_LAG_SECONDS: Final = _histogram(
    "event_loop_lag_seconds", "How late a timer of the event loop fired.", _LOOP_SECONDS
)

LIVE: Final = (CLOCK, LAG, MIN_CLOCK, VERSION, LIVE_VERSIONS, WORKERS)
"""Read from the state when somebody asks, not counted as things happen."""

CATALOGUE: Final = (
    INFO,
    REQUESTS,
    RECEIVED_BYTES,
    SENT_BYTES,
    REFUSED,
    ABORTED_BODIES,
    SLOW_READERS_CLOSED,
    PUSHES,
    NON_FINITE,
    PULL_WAIT_SECONDS,
    STALENESS,
    ROUNDS,
    STEPS,
    APPLY_SECONDS,
    GRADIENT_NORM,
    *LIVE,
    JOINS,
    DEPARTURES,
    CHECKPOINTS,
    CHECKPOINT_SECONDS,
    EVENT_LOOP_LAG_SECONDS,
)
