"""Each alert fires when it has to and is quiet when it has to be, as Prometheus's own tool for it says."""

import re
import subprocess
from dataclasses import dataclass, field

import pytest
import yaml

from dashboards import alerts
from dashboards.alerts import Severity
from dashboards.queries import UP
from dashboards.rules import Rules
from leeway.protocol.metrics import MetricType
from leeway.ps.watching import catalogue as server
from leeway.worker.watching import catalogue as worker
from tests.dashboards.boards import BUILT, names_in, series_names
from tests.system import require

ALERTS = {alert.name: alert for alert in alerts.alerts()}
RUNBOOK = re.compile(r"[.;] ")

SERVER = {"job": "leeway", "instance": "server:8080"}
WORKER = {"job": "leeway-workers", "instance": "w2:9100"}


def series(metric, values, suffix="", **labels):
    """An input series of promtool: `values` are a minute apart, "1+2x3" is 1 3 5 7, "_" is nothing."""
    assert set(labels) - {"job", "instance", "le"} <= set(metric.labels)
    assert (metric.type is MetricType.HISTOGRAM) == bool(suffix)
    own = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    return {"series": f"{metric.name}{suffix}{{{own}}}", "values": values}


@dataclass
class Case:
    """Input series, and what fires at this minute: the labels that tell it from others, and its summary."""

    what: str
    given: list
    minute: int
    labels: dict | None = None
    summary: str = ""
    replaced: dict = field(default_factory=dict)


def steps(values):
    return series(server.STEPS, values, **SERVER, group="default")


def loop_lag(*buckets):
    return [
        series(server.EVENT_LOOP_LAG_SECONDS, values, "_bucket", **SERVER, le=le)
        for le, values in zip(("0.05", "0.1", "0.2", "+Inf"), buckets, strict=True)
    ]


IN_GROUP = SERVER | {"group": "default"}

CASES = {
    "LeewayServerDown": [
        Case(
            "it was there and is gone",
            [series(UP, "1x2 0x8", **SERVER), series(server.INFO, "1x2 _x8", **SERVER, version="1")],
            5,
            SERVER,
            "The server at server:8080 does not answer",
        ),
        Case(
            "it came back",
            [series(UP, "1x2 0x2 1x8", **SERVER), series(server.INFO, "1x2 _x2 1x8", **SERVER, version="1")],
            8,
        ),
        Case("a target of somebody else is gone", [series(UP, "0x10", job="node", instance="n:1")], 5),
        Case(
            "a worker is gone",
            [series(UP, "1x2 0x8", **WORKER), series(worker.INFO, "1x2 _x8", **WORKER, rank="w2")],
            5,
        ),
    ],
    "LeewayWorkerDown": [
        Case(
            "it was there and is gone",
            [series(UP, "1x2 0x8", **WORKER), series(worker.INFO, "1x2 _x8", **WORKER, rank="w2")],
            5,
            WORKER,
            "The worker at w2:9100 does not answer",
        ),
        Case("nobody knows what it was", [series(UP, "0x10", **WORKER)], 5),
        Case(
            "it is long ago",
            [series(UP, "1x2 0x80", **WORKER), series(worker.INFO, "1x2 _x80", **WORKER, rank="w2")],
            75,
        ),
    ],
    "LeewayWorkerEvicted": [
        Case(
            "the first of its reason: the series appears",
            [series(server.DEPARTURES, "_x4 1x9", **SERVER, reason="lease-expired")],
            6,
            SERVER | {"reason": "lease-expired"},
            "A worker was evicted: lease-expired",
        ),
        Case(
            "one more",
            [series(server.DEPARTURES, "3x4 4x9", **SERVER, reason="iteration-too-long")],
            6,
            SERVER | {"reason": "iteration-too-long"},
            "A worker was evicted: iteration-too-long",
        ),
        Case("it is over", [series(server.DEPARTURES, "_x4 1x20", **SERVER, reason="lease-expired")], 15),
        Case("a worker left in good order", [series(server.DEPARTURES, "_x4 1+1x9", **SERVER, reason="left")], 6),
    ],
    "LeewayWorkerQuarantined": [
        Case(
            "two are kept out",
            [series(server.QUARANTINED, "0x3 2x9", **SERVER)],
            6,
            SERVER,
            "2 ranks are in quarantine",
        ),
        Case("they are let in", [series(server.QUARANTINED, "0x3 2x5 0x9", **SERVER)], 12),
    ],
    "LeewayInsecure": [
        Case(
            "it is open to all",
            [series(server.INSECURE, "1x9", **SERVER)],
            5,
            SERVER,
            "Anybody gets in at the server at server:8080",
        ),
        Case("it asks for tokens", [series(server.INSECURE, "0x9", **SERVER)], 5),
    ],
    "LeewayCertificateEnds": [
        # The tool's time begins in 1970.
        Case(
            "in a bit less than a week",
            [series(server.CERTIFICATE_EXPIRY, f"{7 * 86_400 + 60}x9", **SERVER)],
            6,
            SERVER,
            "The certificate of server:8080 ends in 6d 23h 55m 0s",
        ),
        Case(
            "it has ended",
            [series(server.CERTIFICATE_EXPIRY, "60x20", **SERVER)],
            10,
            SERVER,
            "The certificate of server:8080 has ended",
        ),
        Case("in a month", [series(server.CERTIFICATE_EXPIRY, "2592000x9", **SERVER)], 6),
        Case("it was renewed", [series(server.CERTIFICATE_EXPIRY, "60x5 2592000x20", **SERVER)], 9),
    ],
    "LeewayBarrierHeldByOneRank": [
        Case(
            "two thirds of the time for a quarter of an hour",
            [
                series(server.BARRIER_HELD_SECONDS, "0+40x30", **IN_GROUP, rank="w2"),
                series(server.BARRIER_HELD_SECONDS, "0+3x30", **IN_GROUP, rank="w1"),
            ],
            15,
            IN_GROUP | {"rank": "w2"},
            "The others wait for w2 66.67% of the time",
            {"{{ $labels.rank }}": "w2", "{{ $labels.group }}": "default"},
        ),
        Case(
            "not for long yet",
            [series(server.BARRIER_HELD_SECONDS, "0+40x30", **IN_GROUP, rank="w2")],
            8,
        ),
        Case(
            "in turns",
            [series(server.BARRIER_HELD_SECONDS, "0+20x30", **IN_GROUP, rank=f"w{index}") for index in range(3)],
            20,
        ),
    ],
    "LeewayLagAtBound": [
        Case(
            "at the bound and one beyond, in turns",
            [
                series(server.LAG, "3 4 " * 15, **IN_GROUP, rank="w0"),
                series(server.LAG, "0x30", **IN_GROUP, rank="w1"),
                series(server.STALENESS_BOUND, "3x30", **IN_GROUP),
            ],
            20,
            IN_GROUP,
            "Group default lives at its staleness bound",
        ),
        Case(
            "at the bound now and then",
            [
                series(server.LAG, "3 2 0 1 " * 8, **IN_GROUP, rank="w0"),
                series(server.STALENESS_BOUND, "3x30", **IN_GROUP),
            ],
            20,
        ),
        Case("there is no bound", [series(server.LAG, "0+5x30", **IN_GROUP, rank="w0")], 20),
    ],
    "LeewayNonFiniteUpdates": [
        Case(
            "the first one",
            [series(server.NON_FINITE, "_x4 1x9", **IN_GROUP)],
            6,
            IN_GROUP,
            "Updates with NaN or infinity in group default",
        ),
        Case("none", [series(server.NON_FINITE, "0x10", **IN_GROUP)], 6),
        Case("some, long ago", [series(server.NON_FINITE, "7x20", **IN_GROUP)], 15),
    ],
    "LeewayModelNotFinite": [
        Case(
            "the first version",
            [series(server.NON_FINITE_VERSIONS, "_x4 1x9", **IN_GROUP)],
            6,
            IN_GROUP,
            "The model of group default holds NaN or infinity",
        ),
        Case("updates that were refused", [series(server.NON_FINITE, "_x4 1x9", **IN_GROUP)], 6),
        Case("none", [series(server.NON_FINITE_VERSIONS, "0x10", **IN_GROUP)], 6),
    ],
    "LeewayEventLoopLag": [
        Case(
            "one of ten timers is late",
            loop_lag("0+9x20", "0+9x20", "0+10x20", "0+10x20"),
            10,
            SERVER,
            "The server's event loop is 190ms late",
        ),
        Case("all in time", loop_lag("0+10x20", "0+10x20", "0+10x20", "0+10x20"), 10),
    ],
    "LeewayNoCheckpoint": [
        Case(
            "none for more than an hour, steps all the time",
            [series(server.CHECKPOINT_TIMESTAMP, "0x90", **SERVER), steps("0+60x90")],
            65,
            SERVER,
            "Nothing saved for 1h 5m 0s, though steps are made",
        ),
        Case("nothing to save", [series(server.CHECKPOINT_TIMESTAMP, "0x90", **SERVER), steps("60x90")], 65),
        Case(
            "saved half an hour ago",
            [series(server.CHECKPOINT_TIMESTAMP, "0x30 2100x60", **SERVER), steps("0+60x90")],
            65,
        ),
    ],
    "LeewayCheckpointFailed": [
        Case(
            "the first one",
            [series(server.CHECKPOINTS, "_x4 1x9", **SERVER, outcome="failed")],
            6,
            SERVER | {"outcome": "failed"},
            "A checkpoint could not be written",
        ),
        Case("they are saved", [series(server.CHECKPOINTS, "_x4 1+1x9", **SERVER, outcome="saved")], 6),
    ],
    "LeewayStepsFail": [
        Case(
            "the first one",
            [series(server.FAILED_STEPS, "0x4 1x9", **IN_GROUP)],
            6,
            IN_GROUP,
            "Steps of group default fail",
        ),
        Case("none", [series(server.FAILED_STEPS, "0x20", **IN_GROUP)], 6),
    ],
    "LeewayTellingFails": [
        Case(
            "the history's disk is full",
            [series(server.LISTENER_FAILURES, "0x4 1x9", **SERVER, listener="history")],
            6,
            SERVER | {"listener": "history"},
            "The server cannot tell its history what happens",
        ),
        Case("all are told", [series(server.LISTENER_FAILURES, "0x20", **SERVER, listener="history")], 6),
    ],
    "LeewayNoProgress": [
        Case(
            "workers, but no iteration",
            [
                series(server.MIN_CLOCK, "0+9x5 45x20", **IN_GROUP),
                series(server.WORKERS, "2x30", **IN_GROUP, state="waiting"),
            ],
            15,
            IN_GROUP,
            "Group default stands still",
        ),
        Case(
            "an iteration every other minute",
            [
                series(server.MIN_CLOCK, "1 1 2 2 3 3 4 4 5 5 6 6 7 7 8 8", **IN_GROUP),
                series(server.WORKERS, "2x30", **IN_GROUP, state="waiting"),
            ],
            12,
        ),
        Case(
            "nobody is there",
            [
                series(server.MIN_CLOCK, "45x30", **IN_GROUP),
                series(server.WORKERS, "0x30", **IN_GROUP, state="waiting"),
            ],
            15,
        ),
    ],
}


def test_each_alert_is_tested_both_ways():
    assert set(CASES) == set(ALERTS)
    for cases in CASES.values():
        assert {case.labels is None for case in cases} == {True, False}


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name}: {case.what}") for name, cases in CASES.items() for case in cases],
)
def test_an_alert(tmp_path, name, case):
    alert, told = ALERTS[name], []
    if case.labels is not None:
        description = alert.description
        for template, value in case.replaced.items():
            description = description.replace(template, value)
        assert "{{" not in description
        told = [
            {
                "exp_labels": case.labels | {"severity": str(alert.severity)},
                "exp_annotations": {"summary": case.summary, "description": description},
            }
        ]
    for file in ("rules.yaml", "alerts.yaml"):
        (tmp_path / file).write_text(BUILT[f"prometheus/{file}"])
    asked = {"eval_time": f"{case.minute}m", "alertname": name, "exp_alerts": told}
    test = {"interval": "1m", "input_series": case.given, "alert_rule_test": [asked]}
    document = {"rule_files": ["rules.yaml", "alerts.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    ran = subprocess.run(
        [require("promtool"), "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_file_holds_every_alert():
    [group] = yaml.safe_load(BUILT["prometheus/alerts.yaml"])["groups"]
    assert [rule["alert"] for rule in group["rules"]] == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS.values(), ids=lambda alert: alert.name)
def test_an_alert_says_what_to_do(alert):
    assert alert.name.startswith("Leeway")
    assert not alert.summary.endswith(".")
    assert alert.description.endswith(".")
    assert len(RUNBOOK.split(alert.description)) >= 2, "what it means, and what to do"
    assert alert.severity in Severity


@pytest.mark.parametrize("alert", ALERTS.values(), ids=lambda alert: alert.name)
def test_an_alert_asks_for_what_there_is(alert):
    assert names_in(alert.expression) <= series_names() | {rule.name for rule in Rules().all()}


def test_another_pace_has_the_same_alerts():
    quick = alerts.alerts(alerts.Pace(window="4s", memory="1m", soon="1s", late="1s"))
    assert [alert.name for alert in quick] == list(ALERTS)
    assert {alert.hold for alert in quick} <= {"0s", "1s"}
    assert not any("5m" in alert.expression or "1h" in alert.expression for alert in quick)
