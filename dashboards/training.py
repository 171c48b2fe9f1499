"""The dashboard Training: does it learn, how fast, and where does the time of an iteration go.

The one rule: what the server knows is asked of the server, so that the top works when no worker is scraped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards import variables
from dashboards.board import HIGH, LOW, MIDDLE, Section, Shelf, dashboard, policy_changes, policy_in_force
from dashboards.panels import (
    BLUE,
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    GREEN,
    NUMBER,
    ORANGE,
    PER_SECOND,
    PURPLE,
    RED,
    SECONDS,
    SHARE,
    Column,
    Query,
    figure,
    graph,
    rows_of,
)
from dashboards.queries import TARGET, Part
from dashboards.variables import GROUP, RANKS
from leeway.ps.watching import catalogue as server
from leeway.worker.watching import catalogue as worker

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from dashboards.panels import Panel
    from leeway.protocol.metrics import Metric

UID = "leeway-training"

_STAGE = "{{rank}}/{{stage}}"
_LOSS = 'figure="loss"'
_ACCURACY = 'figure="accuracy"'
# What a worker with --evaluate-every reports with its pushes.
_TEST_ACCURACY, _TEST_FIGURES = 'figure="test_accuracy"', 'figure=~"test_.+"'
_TIMES = {
    "compute": worker.COMPUTE_SECONDS,
    "push": worker.PUSH_SECONDS,
    "wait": worker.WAIT_SECONDS,
    "pull": worker.PULL_SECONDS,
}
_COLORS = {"compute": GREEN, "bubble": ORANGE, "push": BLUE, "wait": RED, "pull": PURPLE}


def build() -> Dashboard:
    return dashboard(
        UID,
        "Leeway / Training",
        "Loss, accuracy, speed, and where the time of an iteration goes. Choose one group; the panels of single "
        "workers need the workers' own metrics (PS_METRICS_PORT).",
        [variables.datasource(), variables.job(), variables.instance(), variables.group(), variables.rank()],
        [
            Section("At a glance", [Shelf(LOW, _glance())]),
            Section("Learning", [Shelf(HIGH, _learning()), Shelf(MIDDLE, _settings())]),
            Section("Speed", [Shelf(MIDDLE, _speed())]),
            Section("Where the time goes", [Shelf(HIGH, _time()), Shelf(MIDDLE, _parts())]),
            Section("Worker by worker", [Shelf(HIGH, [_workers()])]),
            Section("Pipelines", [Shelf(HIGH, _stages()), Shelf(MIDDLE, _between_stages())]),
            Section("What went wrong", [Shelf(MIDDLE, _troubles())]),
        ],
        policy_changes(),
    )


def _glance() -> list[Panel]:
    return [
        policy_in_force(),
        figure(
            "Live workers",
            "Workers that hold a lease, whatever they do. Red: nobody is there.",
            COUNT,
            Query(f"sum ({GROUP.series(server.WORKERS)})", "workers"),
            base=RED,
            limits=((1, GREEN),),
        ),
        figure(
            "Version",
            "Number of the newest published version: how many optimizer steps the model has behind it.",
            COUNT,
            Query(f"max ({GROUP.series(server.VERSION)})", "version"),
            base=BLUE,
        ),
        figure(
            "Steps per second",
            "Optimizer steps of the server. Under sync each is an aggregated round, under async and ssp one update.",
            PER_SECOND,
            Query(GROUP.rate(server.STEPS, by=()), "steps"),
            base=RED,
            limits=((1e-9, GREEN),),
        ),
        figure(
            "Loss",
            "Mean over the live workers of the training loss that each reported with its last push.",
            NUMBER,
            Query(f"avg ({GROUP.series(server.REPORTED, _LOSS)})", "loss"),
            base=BLUE,
            decimals=4,
        ),
        figure(
            "Held-out accuracy",
            "Accuracy on held-out data at the last evaluation. Empty unless a worker runs with --evaluate-every.",
            SHARE,
            Query(f"max ({GROUP.series(server.REPORTED, _TEST_ACCURACY)})", "accuracy"),
            base=BLUE,
            decimals=2,
        ),
    ]


def _learning() -> list[Panel]:
    return [
        graph(
            "Loss",
            "Training loss of the newest batch of each worker, and their mean as the dashed line. Lines far from the "
            "others: other data, or parameters that are too old. A gap: not a number.",
            NUMBER,
            Query(f"avg ({GROUP.series(server.REPORTED, _LOSS)})", "mean"),
            Query(RANKS.series(server.REPORTED, _LOSS), "{{rank}}"),
            minimum=None,
            dashed=["mean"],
        ),
        graph(
            "Held-out figures",
            "What the evaluation on held-out data gave, accuracy as a share of 1. Empty unless a worker runs with "
            "--evaluate-every.",
            NUMBER,
            Query(f"max by (figure) ({GROUP.series(server.REPORTED, _TEST_FIGURES)})", "{{figure}}"),
            minimum=None,
        ),
    ]


def _settings() -> list[Panel]:
    return [
        graph(
            "Held-out accuracy by worker",
            "The accuracy that a worker measured itself. One worker evaluates, so there is one line unless it was "
            "replaced by another.",
            SHARE,
            Query(RANKS.with_rank(RANKS.series(worker.EVALUATION, _ACCURACY)), "{{rank}}"),
            maximum=1.0,
        ),
        graph(
            "Batch loss by worker",
            "As the workers show it themselves, the value of the newest batch. Compare it with the mean above.",
            NUMBER,
            Query(RANKS.with_rank(RANKS.series(worker.LOSS)), "{{rank}}"),
            minimum=None,
        ),
        graph(
            "Learning rate",
            "Of the next step, with warmup and schedule in it.",
            NUMBER,
            Query(GROUP.series(server.LEARNING_RATE), "learning rate"),
        ),
        graph(
            "Gradient norm",
            "L2 norm of a step's gradient before clipping, measured about once a second. A rise by orders of magnitude "
            "comes before a loss that is not a number: lower the learning rate, or set --clip-norm.",
            NUMBER,
            Query(GROUP.series(server.GRADIENT_NORM), "norm"),
            minimum=None,
            logarithmic=True,
        ),
    ]


def _speed() -> list[Panel]:
    steps = RANKS.with_rank(RANKS.rate(worker.STEP_SECONDS, part=Part.COUNT))
    return [
        graph(
            "Updates per second",
            "Updates of workers by what became of them: applied at once, held for the round, skipped (an iteration "
            "without an update), late or merged.",
            PER_SECOND,
            Query(GROUP.rate(server.PUSHES, by=["disposition"]), "{{disposition}}"),
            stacked=True,
        ),
        graph(
            "Steps per second",
            "Optimizer steps of the server. Under sync fewer than updates: a round makes one step.",
            PER_SECOND,
            Query(GROUP.rate(server.STEPS, by=()), "steps"),
        ),
        graph(
            "Iterations per second by worker",
            "How fast each worker goes round. Under async the lines are the speeds of the machines; under ssp and sync "
            "all settle at the slowest one's.",
            PER_SECOND,
            Query(steps, "{{rank}}"),
        ),
        graph(
            "Samples per second",
            "Training samples whose update was accepted, stacked over the workers: the throughput of the run.",
            PER_SECOND,
            Query(f"max by (rank) ({RANKS.with_rank(RANKS.rate(worker.SAMPLES))})", "{{rank}}"),
            Query(GROUP.rate(server.LATE_SAMPLES, by=()), "late, dropped"),
            stacked=True,
        ),
    ]


def _time() -> list[Panel]:
    return [
        graph(
            "Time of an iteration, all workers",
            "What share of their time the chosen workers compute, push, wait for others and pull. Compute is what they "
            "are there for, all that is between two calls of theirs; wait is the price of the policy, bubble that of a "
            "pipeline.",
            SHARE,
            *(Query(_share(timer), name) for name, timer in (_TIMES | {"bubble": worker.BUBBLE_SECONDS}).items()),
            stacked=True,
            maximum=1.0,
            colors=_COLORS,
        ),
        graph(
            "Share of time waiting, by worker",
            "As the workers see it. High for all but one: that one holds the others up. High for all in turn: the "
            "stragglers change, and a larger bound would help.",
            SHARE,
            Query(RANKS.with_rank(_per_process(worker.WAIT_SECONDS)), "{{rank}}"),
            maximum=1.0,
            limits=((0.5, ORANGE),),
        ),
    ]


def _parts() -> list[Panel]:
    descriptions = {
        "compute": "Mean time from parameters to an update: forward and backward pass, reading data. The slow machine "
        "is the line above the others.",
        "push": "Mean time to hand in an update. Grows with the model, with a slow network and with a busy server.",
        "wait": "Mean time in which a pull waited for others: the price of the policy.",
        "pull": "Mean time to read parameters, the wait aside.",
    }
    return [
        graph(
            name.capitalize(),
            descriptions[name],
            SECONDS,
            Query(RANKS.with_rank(_mean(timer)), "{{rank}}"),
        )
        for name, timer in _TIMES.items()
    ]


def _workers() -> Panel:
    return rows_of(
        "Workers",
        "One line for each worker as it is now, a replica being one: of its stages the largest value, of the waiting "
        "the mean, of bytes the sum. Columns after the loss need the worker's own metrics; they are empty for a worker "
        "that is not scraped.",
        "rank",
        "Rank",
        Column("Clock", f"max by (rank) ({RANKS.series(server.CLOCK)})", COUNT),
        Column("Lag", f"max by (rank) ({RANKS.series(server.LAG)})", COUNT),
        Column("Loss", f"max by (rank) ({RANKS.series(server.REPORTED, _LOSS)})", NUMBER, 4),
        Column(
            "Iterations/s",
            f"max by (rank) ({RANKS.with_rank(RANKS.rate(worker.STEP_SECONDS, part=Part.COUNT))})",
            PER_SECOND,
            2,
        ),
        Column("Samples/s", f"max by (rank) ({RANKS.with_rank(RANKS.rate(worker.SAMPLES))})", PER_SECOND, 0),
        Column("Compute", f"max by (rank) ({RANKS.with_rank(_mean(worker.COMPUTE_SECONDS))})", SECONDS),
        Column("Waiting", f"avg by (rank) ({RANKS.with_rank(_per_process(worker.WAIT_SECONDS))})", SHARE, 1),
        Column(
            "Updates",
            f"max by (rank) (sum by (rank, instance) ({RANKS.with_rank(RANKS.series(worker.PUSHES))}))",
            COUNT,
        ),
        Column("Own clock", f"max by (rank) ({RANKS.with_rank(RANKS.series(worker.CLOCK))})", COUNT),
        Column("Own lag", f"max by (rank) ({RANKS.with_rank(RANKS.series(worker.LAG))})", COUNT),
        Column("Own staleness", f"max by (rank) ({RANKS.with_rank(RANKS.series(worker.STALENESS))})", COUNT),
        Column("Sent", f"sum by (rank) ({RANKS.with_rank(RANKS.series(worker.SENT_BYTES))})", BYTES),
        Column("Received", f"sum by (rank) ({RANKS.with_rank(RANKS.series(worker.RECEIVED_BYTES))})", BYTES),
    )


def _stages() -> list[Panel]:
    return [
        graph(
            "Bubble, by stage",
            "Share of its time in which a stage waits for its neighbours: what the schedule costs, and links. The one "
            "with the smallest share holds the others; give it fewer layers, or cut by time.",
            SHARE,
            Query(RANKS.with_stage(_per_process(worker.BUBBLE_SECONDS)), _STAGE),
            maximum=1.0,
            limits=((0.5, ORANGE),),
        ),
        graph(
            "Computing, by stage",
            "Mean time in an iteration in which a stage computes, all its micro-batches together. In a good cut the "
            "lines of a replica lie together; the one above the others sets the pace.",
            SECONDS,
            Query(RANKS.with_stage(_mean(worker.COMPUTE_SECONDS)), _STAGE),
        ),
        graph(
            "Stages missing",
            "Replicas that cannot begin, or go on, before these processes are there. Nothing is drawn while none is.",
            COUNT,
            Query(GROUP.series(server.STAGES_MISSING), "{{rank}}"),
            bars=True,
        ),
    ]


def _between_stages() -> list[Panel]:
    again, dropped = (RANKS.increase(metric) for metric in (worker.HANDOVERS_RESENT, worker.DROPPED_ITERATIONS))
    return [
        graph(
            "Micro-batches in flight",
            "Of how many micro-batches a stage holds activations at once, at most. With 1f1b the first stage holds as "
            "many as there are stages, the last one; with gpipe all hold all.",
            COUNT,
            Query(RANKS.with_stage(RANKS.series(worker.IN_FLIGHT)), _STAGE),
        ),
        graph(
            "Activations",
            "What these activations take in memory. Where it is too much: more micro-batches, or recompute.",
            BYTES,
            Query(RANKS.with_stage(RANKS.series(worker.ACTIVATION_BYTES)), _STAGE),
        ),
        graph(
            "Between stages",
            "Bytes a second that a stage sends to others (activations, errors) and receives from them. bfloat16 on the "
            "wire halves them.",
            BYTES_PER_SECOND,
            Query(RANKS.with_stage(RANKS.rate(worker.HANDED_BYTES)), f"{_STAGE} sends"),
            Query(RANKS.with_stage(RANKS.rate(worker.TAKEN_BYTES)), f"{_STAGE} receives"),
        ),
        graph(
            "Sent again, and dropped",
            "Handovers that were sent again after a lost connection, and iterations that a stage gave up because "
            "another one was lost: their batches are trained again.",
            NUMBER,
            Query(RANKS.with_stage(again), f"{_STAGE}: sent again"),
            Query(RANKS.with_stage(dropped), f"{_STAGE}: dropped"),
            bars=True,
        ),
    ]


def _troubles() -> list[Panel]:
    return [
        graph(
            "Iterations without an update",
            "By cause: non-finite (the gradient had NaN or infinity, and was refused), too-large (likewise, "
            "for its norm), asked (the script skipped it: an overflow, or nothing left to read).",
            NUMBER,
            Query(f"sum by (rank, cause) ({_grown(worker.SKIPS)})", "{{rank}}: {{cause}}"),
            bars=True,
        ),
        graph(
            "Updates lost",
            "Updates that the server refused for good, by code. They cost an iteration each and harm nothing else; "
            "many of one worker mean that it is too slow for its lease or its grant.",
            NUMBER,
            Query(f"sum by (rank, code) ({_grown(worker.DROPPED)})", "{{rank}}: {{code}}"),
            bars=True,
        ),
        graph(
            "Lives after the first",
            "Workers that had to join again, by the code that ended the life before: evicted (silent for longer than "
            "the lease), fenced (another process came under the same rank), old-epoch (the server began anew).",
            NUMBER,
            Query(f"sum by (rank, code) ({_grown(worker.REJOINS)})", "{{rank}}: {{code}}"),
            bars=True,
        ),
        graph(
            "Requests sent again",
            "After a lost connection or while the server was away. Nothing is applied twice by it.",
            NUMBER,
            Query(RANKS.with_rank(RANKS.increase(worker.RECONNECTS)), "{{rank}}"),
            bars=True,
        ),
    ]


def _mean(timer: Metric) -> str:
    """Mean seconds of what a timer observed, for each process."""
    return RANKS.mean(timer, by=TARGET)


def _per_process(timer: Metric) -> str:
    """The share of each process's time."""
    part, whole = (RANKS.rate(metric, by=TARGET, part=Part.SUM) for metric in (timer, worker.STEP_SECONDS))
    return f"{part} / {whole}"


def _share(timer: Metric) -> str:
    """The share of the time of all chosen workers."""
    part, whole = (RANKS.with_rank(RANKS.rate(metric, part=Part.SUM)) for metric in (timer, worker.STEP_SECONDS))
    return f"sum ({part}) / sum ({whole})"


def _grown(events: Metric) -> str:
    return RANKS.with_rank(f"({RANKS.happened(events)})")
