"""What Prometheus watches: each alert says what is wrong, what it costs and what to do.

The one rule: an alert is worth getting up for, or it is not here. Waiting is what `sync` and `ssp` are for; only
waiting that one rank causes, or that lasts, is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dashboards.queries import UP, Scope
from dashboards.rules import Rules, encoded
from leeway.protocol.reasons import Reason
from leeway.ps.watching import catalogue as server
from leeway.worker.watching import catalogue as worker

if TYPE_CHECKING:
    from leeway.protocol.metrics import Metric

NAME: Final = "leeway-alerts"

HELD_SHARE: Final = 0.5
"""One rank is waited for so much of the time: half of what the others could do is lost."""

LOOP_LAG_SECONDS: Final = 0.1
"""Later than this, and heartbeats and latencies suffer."""

CHECKPOINT_AGE_SECONDS: Final = 3600
"""So much work may be lost in a crash before somebody is told."""

CERTIFICATE_SECONDS: Final = 7 * 86_400
"""As long before its end the server begins to warn too."""


class Severity(StrEnum):
    CRITICAL = "critical"  # the run stands, or its result is in danger
    WARNING = "warning"  # the run goes on, worse than it could


@dataclass(frozen=True, slots=True)
class Pace:
    """Over how long alerts look (`window`), and how long a condition has to hold before it is told.

    `soon` is for what does not mend itself, `late` for what may pass, as durations of Prometheus. Tests use seconds.
    """

    window: str = "5m"
    memory: str = "1h"
    soon: str = "1m"
    late: str = "10m"


@dataclass(frozen=True, slots=True)
class Alert:
    """`expression` answers with a series for each thing that is wrong; it is told when it is so for `hold`.

    `summary` is one line, `description` what to do. Both are templates of Prometheus: `{{ $labels.rank }}`.
    """

    name: str
    expression: str
    hold: str
    severity: Severity
    summary: str
    description: str


def alerts(pace: Pace | None = None) -> list[Alert]:
    """Every alert."""
    pace = pace or Pace()
    scope, memory, recorded = Scope(pace.window), Scope(pace.memory), Rules(pace.window)
    return [
        Alert(
            "LeewayServerDown",
            _gone(memory, server.INFO),
            pace.soon,
            Severity.CRITICAL,
            "The server at {{ $labels.instance }} does not answer",
            "Prometheus cannot read its metrics. Workers keep what they have and try again for five minutes, then "
            "they end. Look whether the process runs (its log says why it ended) and start it again with --resume and "
            "the same --state-dir.",
        ),
        Alert(
            "LeewayWorkerDown",
            _gone(memory, worker.INFO),
            pace.soon,
            Severity.WARNING,
            "The worker at {{ $labels.instance }} does not answer",
            "Prometheus cannot read its metrics any more: the process has ended, or its machine is gone. The others "
            "go on when its lease has run out. Start it again under the same rank; it goes on with the model of the "
            "server. If it was meant to end, take it out of the targets.",
        ),
        Alert(
            "LeewayWorkerEvicted",
            _evicted(scope),
            "0s",
            Severity.WARNING,
            "A worker was evicted: {{ $labels.reason }}",
            "lease-expired: the server heard nothing of it for the lease; the process, its machine or the network is "
            "gone or overloaded. iteration-too-long: it sent heartbeats but did not finish an iteration within "
            "--max-iteration-seconds; it hangs. The others go on without it. The server's log names the rank "
            '("ended"). A worker that is merely slow needs a longer --lease.',
        ),
        Alert(
            "LeewayWorkerQuarantined",
            f"{scope.series(server.QUARANTINED)} > 0",
            "0s",
            Severity.WARNING,
            "{{ $value }} ranks are in quarantine",
            "Too many of their updates in a row had a norm beyond --max-update-norm or --max-update-norm-ratio, or an "
            "admin keeps them out; /v1/status says who and why. The others go on without them. Look at the data and "
            "the code of such a worker before you let it in again: DELETE /v1/quarantine/RANK, or on the live page.",
        ),
        Alert(
            "LeewayInsecure",
            f"{scope.series(server.INSECURE)} == 1",
            pace.soon,
            Severity.WARNING,
            "Anybody gets in at the server at {{ $labels.instance }}",
            "It listens beyond its own machine with --insecure: whoever reaches the port may read the model, push into "
            "it and end the run. Start it with --tokens, or with --tls-client-ca; ps-keys makes both.",
        ),
        Alert(
            "LeewayCertificateEnds",
            f"{scope.series(server.CERTIFICATE_EXPIRY)} - time() < {CERTIFICATE_SECONDS}",
            pace.soon,
            Severity.WARNING,
            "The certificate of {{ $labels.instance }} "
            "{{ if gt $value 0.0 }}ends in {{ $value | humanizeDuration }}{{ else }}has ended{{ end }}",
            "Who connects after its end trusts it no more, Prometheus among them; connections that are open stay. Make "
            "another with ps-keys renew, put it where --tls-cert and --tls-key say, and send the server SIGHUP.",
        ),
        Alert(
            "LeewayBarrierHeldByOneRank",
            f"{recorded.held.name} > {HELD_SHARE:g}",
            pace.late,
            Severity.WARNING,
            "The others wait for {{ $labels.rank }} {{ $value | humanizePercentage }} of the time",
            "Worker {{ $labels.rank }} of {{ $labels.group }} holds the others up. Look at its compute time on the "
            "dashboard Training: if it is slow for good, give it a smaller batch or take it out, for neither sync nor "
            "ssp gains anything from a worker that is always slow; if it is slow now and then, raise the bound of ssp "
            "(PUT /v1/policy works on the live run).",
        ),
        Alert(
            "LeewayLagAtBound",
            f"max by (job, instance, group) (min_over_time({scope.series(server.LAG)}[{pace.window}])) "
            f">= on (job, instance, group) {scope.series(server.STALENESS_BOUND)}",
            pace.late,
            Severity.WARNING,
            "Group {{ $labels.group }} lives at its staleness bound",
            "The fastest worker has been at the bound for all this time, so the run goes at the pace of its slowest "
            "worker and ssp saves nothing. The dashboard Staleness shows who that is. Mend or remove that worker; a "
            "larger bound helps only if it is slow for a while.",
        ),
        Alert(
            "LeewayNonFiniteUpdates",
            scope.happened(server.NON_FINITE),
            "0s",
            Severity.WARNING,
            "Updates with NaN or infinity in group {{ $labels.group }}",
            "Under --non-finite refuse they were not applied and their workers pushed a skip; under warn or off the "
            "model may be spoilt. The server's log names rank and tensor. One worker alone: look at its data. All of "
            "them: the run diverges; lower the learning rate or set --clip-norm, and go back to a checkpoint.",
        ),
        Alert(
            "LeewayModelNotFinite",
            scope.happened(server.NON_FINITE_VERSIONS),
            "0s",
            Severity.CRITICAL,
            "The model of group {{ $labels.group }} holds NaN or infinity",
            "Every worker that pulls it computes with that. The server's log names the tensors and the step. Lower the "
            "learning rate or set --clip-norm, and start the server again from a checkpoint of before.",
        ),
        Alert(
            "LeewayEventLoopLag",
            f"{recorded.loop_lag.name} > {LOOP_LAG_SECONDS:g}",
            pace.soon,
            Severity.WARNING,
            "The server's event loop is {{ $value | humanizeDuration }} late",
            "Requests and heartbeats wait for the server's attention; leases may run out though the workers are well. "
            "The machine is overloaded or swaps, or there are more workers than one server can serve. Give the server "
            "cores of its own, or push less often (--local-steps, --accumulate).",
        ),
        Alert(
            "LeewayNoCheckpoint",
            f"time() - {scope.series(server.CHECKPOINT_TIMESTAMP)} > {CHECKPOINT_AGE_SECONDS} "
            f"and on (job, instance) sum by (job, instance) ({recorded.steps.name}) > 0",
            pace.soon,
            Severity.WARNING,
            "Nothing saved for {{ $value | humanizeDuration }}, though steps are made",
            "A crash now would lose all of it. Save at once with POST /v1/checkpoints. Without --checkpoint-every the "
            "server saves only when it ends; with it, its log says what went wrong. A server without --state-dir never "
            "saves, and is not watched for it.",
        ),
        Alert(
            "LeewayCheckpointFailed",
            scope.happened(server.CHECKPOINTS, 'outcome="failed"'),
            "0s",
            Severity.CRITICAL,
            "A checkpoint could not be written",
            "The run goes on, but what it learns is not safe. The server's log says why; usually the disk of "
            "--state-dir is full or gone. Make room, then POST /v1/checkpoints.",
        ),
        Alert(
            "LeewayStepsFail",
            scope.happened(server.FAILED_STEPS),
            "0s",
            Severity.CRITICAL,
            "Steps of group {{ $labels.group }} fail",
            "Their versions have the values of the ones before them, so what the workers computed is lost; the run "
            'goes on. The server\'s log says why ("step failed"). Usually memory is short: give the machine more, or '
            "the model fewer slow readers. A setting that no step can be made with is changed with PUT /v1/optimizer.",
        ),
        Alert(
            "LeewayTellingFails",
            scope.happened(server.LISTENER_FAILURES),
            "0s",
            Severity.WARNING,
            "The server cannot tell its {{ $labels.listener }} what happens",
            "The run is not touched, but what is told of it has gaps. history: it stays off until the next start; "
            "usually its disk is full. saving: periodic checkpoints are not made; save with POST /v1/checkpoints. The "
            'server\'s log says why, once ("telling failed").',
        ),
        Alert(
            "LeewayNoProgress",
            f"changes({scope.series(server.MIN_CLOCK)}[{pace.window}]) == 0 "
            f"and on (job, instance, group) sum by (job, instance, group) ({scope.series(server.WORKERS)}) > 0",
            pace.soon,
            Severity.CRITICAL,
            "Group {{ $labels.group }} stands still",
            "There are live workers, but the slowest has not finished an iteration. GET /v1/status says who waits for "
            "whom and why; a worker that hangs but sends heartbeats is unmasked by --max-iteration-seconds. If your "
            "iterations take longer than this alert looks back, give it a longer window.",
        ),
    ]


def encoded_alerts(pace: Pace | None = None) -> str:
    """The alerts as a file of Prometheus. They use the recorded rules of the same window."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.hold,
            "labels": {"severity": str(alert.severity)},
            "annotations": {"summary": alert.summary, "description": alert.description},
        }
        for alert in alerts(pace)
    ]
    return encoded(NAME, rules)


def _gone(memory: Scope, info: Metric) -> str:
    """Targets that cannot be read and were ours a while ago: Prometheus itself cannot know what should be there."""
    return f"{memory.series(UP)} == 0 and on (job, instance) count_over_time({memory.series(info)}[{memory.window}])"


def _evicted(scope: Scope) -> str:
    reasons = "|".join((Reason.LEASE_EXPIRED, Reason.ITERATION_TOO_LONG))
    return scope.happened(server.DEPARTURES, f'reason=~"{reasons}"')
