"""Every metric of a worker, as data.

The one rule: a process has one rank, and is one stage of it at most, so these are labels of `leeway_worker_info`
alone; join on it to get them elsewhere.
"""

from __future__ import annotations

from typing import Final

from leeway.protocol.metrics import Metric, MetricType

# From linear regression to a large model's step, or a wait of minutes for a straggler.
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


def _timer(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"leeway_worker_{name}_seconds", MetricType.HISTOGRAM, help, labels, _SECONDS)


def _other(kind: MetricType, name: str, help: str, *labels: str) -> Metric:
    return Metric(f"leeway_worker_{name}", kind, help, labels)


INFO: Final = _other(
    MetricType.GAUGE,
    "info",
    "Always 1; the labels say who this is. Stage, from 0, and the number of stages are empty where it is no stage.",
    *("rank", "task", "version", "stage", "stages"),
)

# What a figure of the held-out data is called in a push, beside those of the batch.
HELD_OUT: Final = "test_"

STEP_SECONDS: Final = _timer("step", "Time of one iteration: all of the following.")
COMPUTE_SECONDS: Final = _timer(
    "compute", "Time from the pulled parameters to an update: reading data, forward and backward pass, evaluating."
)
WAIT_SECONDS: Final = _timer(
    "wait",
    "Time from an update handed in to the next parameters, less sending and receiving: the policy's wait, the "
    "server's arithmetic, pauses before a request is sent again. For whom a pull waited, "
    "leeway_server_pull_wait_seconds says by reason.",
)
PUSH_SECONDS: Final = _timer("push", "Time to hand in an update.")
PULL_SECONDS: Final = _timer("pull", "Time to read parameters, less the wait.")

LOSS: Final = _other(MetricType.GAUGE, "loss", "Training loss of the newest batch, where the script reports it.")
EVALUATION: Final = _other(
    MetricType.GAUGE,
    "evaluation",
    "Figures on the held-out data, reported as test_ and this name; ps-worker: see --evaluate-every.",
    "figure",
)
SENT_BYTES: Final = _other(MetricType.COUNTER, "sent_bytes_total", "Bytes of request bodies, heartbeats aside.")
RECEIVED_BYTES: Final = _other(
    MetricType.COUNTER, "received_bytes_total", "Bytes of response bodies, heartbeats aside."
)
SAMPLES: Final = _other(MetricType.COUNTER, "samples_total", "Training samples whose update was accepted.")
CLOCK: Final = _other(MetricType.GAUGE, "clock", "Index of the next iteration.")
LAG: Final = _other(MetricType.GAUGE, "lag", "Iterations ahead of the slowest worker, at the newest grant.")
STALENESS: Final = _other(
    MetricType.GAUGE,
    "staleness",
    "Versions that others made between the pull of the newest update and its application; not under sync.",
)

PUSHES: Final = _other(MetricType.COUNTER, "pushes_total", "Updates that got their final disposition.", "disposition")
SKIPS: Final = _other(
    MetricType.COUNTER,
    "skips_total",
    "Iterations without an update: non-finite or too-large (refused), or asked (an overflow, nothing to read).",
    "cause",
)
DROPPED: Final = _other(
    MetricType.COUNTER, "dropped_total", "Updates that the server refused for good, by code.", "code"
)
REJOINS: Final = _other(
    MetricType.COUNTER, "rejoins_total", "Lives after the first one, by the code that ended it.", "code"
)
RECONNECTS: Final = _other(
    MetricType.COUNTER, "reconnects_total", "Requests sent again after a lost connection or 503."
)

BUBBLE_SECONDS: Final = _timer(
    "bubble",
    "Time in which a stage of a pipeline waited for its neighbours while it computed; compute has the rest.",
)
IN_FLIGHT: Final = _other(
    MetricType.GAUGE,
    "micro_batches_in_flight",
    "Micro-batches of which the stage held activations, at most, in its newest iteration.",
)
ACTIVATION_BYTES: Final = _other(
    MetricType.GAUGE, "activation_bytes", "What these activations took, at most, in its newest iteration."
)
HANDED_BYTES: Final = _other(
    MetricType.COUNTER,
    "handed_bytes_total",
    "Bytes of activations, errors and shares of gradients that the stage sent to others.",
)
TAKEN_BYTES: Final = _other(
    MetricType.COUNTER, "taken_bytes_total", "Bytes of these that the stage received from others."
)
HANDOVERS_RESENT: Final = _other(
    MetricType.COUNTER, "handovers_resent_total", "Handovers between stages that were sent again."
)
DROPPED_ITERATIONS: Final = _other(
    MetricType.COUNTER,
    "dropped_iterations_total",
    "Iterations that the stage gave up because one of its replica was lost; their batches are trained again.",
)

OF_A_STAGE: Final = (
    BUBBLE_SECONDS,
    IN_FLIGHT,
    ACTIVATION_BYTES,
    HANDED_BYTES,
    TAKEN_BYTES,
    HANDOVERS_RESENT,
    DROPPED_ITERATIONS,
)
"""What only a stage of a pipeline has; other workers do not show them."""

CATALOGUE: Final = (
    INFO,
    STEP_SECONDS,
    COMPUTE_SECONDS,
    WAIT_SECONDS,
    PUSH_SECONDS,
    PULL_SECONDS,
    LOSS,
    EVALUATION,
    SENT_BYTES,
    RECEIVED_BYTES,
    SAMPLES,
    CLOCK,
    LAG,
    STALENESS,
    PUSHES,
    SKIPS,
    DROPPED,
    REJOINS,
    RECONNECTS,
    *OF_A_STAGE,
)
