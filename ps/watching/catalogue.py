"""Every metric of the server, as data.

The one rule: labels are bounded. Routes are templates, reasons and codes are the fixed sets of `protocol`, and
the only name that users choose freely beside a group's, the rank, is shown for live workers and forming replicas alone.
"""

from __future__ import annotations

from typing import Final

from leeway.protocol.metrics import Metric, MetricType

# From a reply out of memory on loopback to a round that waits minutes for a straggler.
_WAIT_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
# From a step on a few kilobytes to Adam on gigabytes.
_STEP_SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# From a good loop's timer jitter to a heartbeat's despair.
_LOOP_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# Powers of 4 from 1 KiB to 16 GiB.
_BYTES = tuple(1024.0 * 4**power for power in range(13))
# Fibonacci: fine where healthy runs are, and beyond the largest bound in common use.
STALENESS_BUCKETS: Final = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0)


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"leeway_server_{name}", MetricType.COUNTER, help, labels)


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"leeway_server_{name}", MetricType.GAUGE, help, labels)


def _histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(f"leeway_server_{name}", MetricType.HISTOGRAM, help, labels, buckets)


INFO: Final = _gauge("info", "Always 1; the label says which version of the program runs.", "version")

REQUESTS: Final = _counter("requests_total", "Requests answered.", "route", "method", "status")
REQUEST_SECONDS: Final = _histogram(
    "request_seconds",
    "Time from a request's headers to the end of its answer, with the body and every wait in between.",
    _WAIT_SECONDS,
    "route",
)
RECEIVED_BYTES: Final = _counter("received_bytes_total", "Bytes of request bodies read.", "route")
SENT_BYTES: Final = _counter("sent_bytes_total", "Bytes of response bodies written.", "route")
SPARED_BYTES: Final = _counter(
    "spared_bytes_total", "Bytes of parameters that were not sent because the asker had them already.", "group"
)
REFUSED: Final = _counter(
    "refused_total",
    "Requests refused, by the code of the problem document; refused updates are those of the route /v1/updates.",
    "route",
    "code",
)
ABORTED_BODIES: Final = _counter(
    "aborted_bodies_total", "Request bodies whose sender went away in the middle; nothing was applied."
)
SLOW_READERS_CLOSED: Final = _counter(
    "slow_readers_closed_total", "Connections closed because they read so slowly that old versions piled up."
)
CONNECTIONS_CLOSED: Final = _counter(
    "connections_closed_total",
    "Connections closed by the server: silent (no request in 30 s, or too many there), idle and full (too many there),"
    " slow (a body of which too little comes).",
    "reason",
)

PUSHES: Final = _counter("pushes_total", "Updates that got their final disposition.", "group", "disposition", "reason")
LATE_SAMPLES: Final = _counter(
    "late_samples_total", "Samples of the updates that were late: dropped, their round having closed.", "group"
)
UPDATE_BYTES: Final = _histogram("update_bytes", "Size of an accepted update's body.", _BYTES, "group")
NON_FINITE: Final = _counter("non_finite_total", "Updates with NaN or infinity in them.", "group")
NON_FINITE_VERSIONS: Final = _counter(
    "non_finite_versions_total", "Versions published with a NaN or an infinity in a trained tensor.", "group"
)
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
    STALENESS_BUCKETS,
    "group",
)
GRANT_LAG: Final = _histogram(
    "grant_lag",
    "Iterations that a worker was ahead of the slowest when its pull was granted.",
    STALENESS_BUCKETS,
    "group",
)
ROUND_SECONDS: Final = _histogram(
    "round_seconds",
    "Time in which a round of sync was open: from its first moment to its last contribution.",
    _WAIT_SECONDS,
    "group",
)
ROUNDS_WITHOUT_STEP: Final = _counter(
    "rounds_without_step_total",
    "Rounds that closed with fewer updates than their aggregation rule needs: nothing was published.",
    "group",
)
STEPS: Final = _counter("steps_total", "Optimizer steps; each published a version.", "group")
FAILED_STEPS: Final = _counter(
    "failed_steps_total",
    "Steps whose arithmetic failed: a version was published with the values of the one before it.",
    "group",
)
APPLY_SECONDS: Final = _histogram(
    "apply_seconds", "Time of one step: aggregation, optimizer, publication.", _STEP_SECONDS, "group"
)
GRADIENT_NORM: Final = _gauge(
    "gradient_norm", "L2 norm of a step's gradient, before clipping; measured about once a second.", "group"
)
SWITCHES: Final = _counter("switches_total", "Changes of the policy of a live run.", "group")

CLOCK: Final = _gauge("clock", "Index of a live worker's next iteration.", "group", "rank")
LAG: Final = _gauge("lag", "Iterations that a live worker is ahead of the slowest.", "group", "rank")
MIN_CLOCK: Final = _gauge("min_clock", "Smallest clock over the live workers.", "group")
VERSION: Final = _gauge("version", "Number of the newest published version.", "group")
LIVE_VERSIONS: Final = _gauge("live_versions", "Versions held in memory; at most 4.", "group")
LEARNING_RATE: Final = _gauge("learning_rate", "Learning rate of the next step.", "group")
POLICY: Final = _gauge("policy", "Always 1; the label says which policy is in force.", "group", "mode")
STALENESS_BOUND: Final = _gauge(
    "staleness_bound", "Largest lag at which a pull is granted; ssp alone has one.", "group"
)
WAITING_SECONDS: Final = _counter(
    "waiting_seconds_total", "Time that a live worker's pulls have waited, the one under way included.", "group", "rank"
)
BARRIER_HELD_SECONDS: Final = _counter(
    "barrier_held_seconds_total",
    "Time in which others waited for this live worker; of several who are waited for each one counts it.",
    "group",
    "rank",
)
REPORTED: Final = _gauge(
    "reported", "What a live worker told with its last push, the loss for example.", "rank", "figure"
)
FIGURES_LEFT_OUT: Final = _counter(
    "figures_left_out_total",
    "Reported figures that are not shown, because their names are too long or too many; their updates are applied.",
)
WORKERS: Final = _gauge("workers", "Live workers by what they do.", "group", "state")
STAGES_MISSING: Final = _gauge(
    "stages_missing", "Stages that a replica still waits for, before its life begins.", "group", "rank"
)

JOINS: Final = _counter("joins_total", "Lives of workers that began.")
DEPARTURES: Final = _counter(
    "departures_total",
    "Lives of workers that ended; lease-expired and iteration-too-long are evictions.",
    "reason",
)

INSECURE: Final = _gauge(
    "insecure", "1 where anybody who reaches the server from another machine is let in (--insecure), else 0."
)
CERTIFICATE_EXPIRY: Final = _gauge(
    "certificate_expiry_timestamp_seconds",
    "When the certificate that the server shows ends, since 1970; there with TLS alone.",
)

QUARANTINED: Final = _gauge(
    "quarantined_ranks", "Ranks that may not join: too many of their updates were refused, or an admin has said so."
)

CHECKPOINTS: Final = _counter("checkpoints_total", "Checkpoints, by outcome: saved or failed.", "outcome")
CHECKPOINT_BYTES: Final = _counter("checkpoint_bytes_total", "Bytes of checkpoints written.")
CHECKPOINT_TIMESTAMP: Final = _gauge(
    "checkpoint_timestamp_seconds",
    "When the newest checkpoint was written, since 1970; before the first one, when the server started.",
)
CHECKPOINT_SECONDS: Final = _histogram(
    "checkpoint_seconds", "Time to save a checkpoint, to the last fsync.", _WAIT_SECONDS
)
LISTENER_FAILURES: Final = _counter(
    "listener_failures_total",
    "Events that could not be told to history, log, metrics, live page or periodic saving; the run itself went on.",
    "listener",
)
EVENT_LOOP_LAG_SECONDS: Final = _histogram(
    "event_loop_lag_seconds", "How late a timer of the event loop fired.", _LOOP_SECONDS
)
PAUSED_SECONDS: Final = _counter(
    "paused_seconds_total",
    "Time in which the server did not run: stopped, its machine asleep, or its loop busy. It counts against nobody.",
)

CLOSINGS: Final = ("silent", "idle", "full", "slow")
"""Why the server closes a connection, as `leeway.transport.http.crowd` has it."""

LISTENERS: Final = ("history", "observer", "metrics", "feed", "saving")
"""Who is told of the run, by the names under which their failures are counted."""

LIVE: Final = (
    CLOCK,
    LAG,
    MIN_CLOCK,
    VERSION,
    LIVE_VERSIONS,
    LEARNING_RATE,
    POLICY,
    STALENESS_BOUND,
    WAITING_SECONDS,
    BARRIER_HELD_SECONDS,
    REPORTED,
    WORKERS,
    STAGES_MISSING,
)
"""Read from the state when somebody asks, not counted as things happen."""

CATALOGUE: Final = (
    INFO,
    REQUESTS,
    REQUEST_SECONDS,
    RECEIVED_BYTES,
    SENT_BYTES,
    SPARED_BYTES,
    REFUSED,
    ABORTED_BODIES,
    SLOW_READERS_CLOSED,
    CONNECTIONS_CLOSED,
    PUSHES,
    LATE_SAMPLES,
    UPDATE_BYTES,
    NON_FINITE,
    NON_FINITE_VERSIONS,
    PULL_WAIT_SECONDS,
    STALENESS,
    GRANT_LAG,
    ROUND_SECONDS,
    ROUNDS_WITHOUT_STEP,
    STEPS,
    FAILED_STEPS,
    APPLY_SECONDS,
    GRADIENT_NORM,
    SWITCHES,
    *LIVE,
    JOINS,
    DEPARTURES,
    INSECURE,
    CERTIFICATE_EXPIRY,
    QUARANTINED,
    CHECKPOINTS,
    CHECKPOINT_BYTES,
    CHECKPOINT_TIMESTAMP,
    CHECKPOINT_SECONDS,
    LISTENER_FAILURES,
    EVENT_LOOP_LAG_SECONDS,
    PAUSED_SECONDS,
    FIGURES_LEFT_OUT,
)
