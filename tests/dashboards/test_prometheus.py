"""A real Prometheus scrapes a real run, in which everything happens that a panel can show.

Every query of every panel, variable, mark, rule and alert is asked over Prometheus's HTTP API and must return data. The
alerts are the same as in production, only quicker; one is brought to fire by pausing a worker.
"""

import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from dashboards import alerts
from dashboards.alerts import Pace
from dashboards.rules import Rules
from leeway.ps.watching import catalogue as server_metrics
from leeway.worker.watching import catalogue as worker_metrics
from tests.dashboards.boards import BOARDS, questions
from tests.dashboards.prometheus import Prometheus, until
from tests.end_to_end.commands import SMALL, Commands
from tests.system import require
from tests.transport.credentials.clusters import Keys

pytestmark = pytest.mark.e2e

DEPLOY = Path(__file__).parents[2] / "deploy"
POISONED = f"{Path(__file__).with_name('poisoned.py')}:Poisoned"
PACE = Pace(window="4s", memory="1m", soon="1s", late="1s")
LEASE_SECONDS = 15
SECONDS = 60.0
# All workers are equally fast, so that nobody is waited for. In this nap of an iteration one of them is paused.
NAP_SECONDS = 0.3

# As Grafana fills them in: everything chosen, a rate over four scrapes.
CHOSEN = {
    "${__rate_interval}": "4s",
    "$__rate_interval": "4s",
    "$job": ".+",
    "$instance": ".+",
    "$group": "default",
    "$rank": ".+",
}


@dataclass
class Watched:
    """What a run left in Prometheus: it ran from `start` to `end`, and at `calm` all of it was there."""

    prometheus: Prometheus
    start: float
    calm: float
    end: float
    held: dict
    fired: set


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    program = require("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with Commands(tmp_path_factory.mktemp("run")) as commands:
        try:
            server = commands.serve(
                *("--mode", "ssp", "--staleness", 2, "--workers", 3, "--lease", LEASE_SECONDS, "--lr", 0.05),
                *("--clip-norm", 10, "--state-dir", "state", "--checkpoint-every", 10),
            )
            flags = ("--batch-size", 8, "--metrics-port", 0, "--start-together", 3, "--slow", NAP_SECONDS)
            workers = {
                "w0": commands.work(SMALL, server, "w0", *flags, "--evaluate-every", 5),
                "w1": commands.work(POISONED, server, "w1", *flags),
                "w2": commands.work(SMALL, server, "w2", *flags),
            }
            targets = {rank: address(worker.address()) for rank, worker in workers.items()}
            # A run of its own, so that nobody here waits for it.
            pipelines = commands.serve("--mode", "async", "--lr", 0.05)
            stages = [commands.stage(pipelines, "r0", number) for number in (0, 1)]
            targets |= {stage.name: address(stage.address()) for stage in stages}
            commands.stage(pipelines, "r1", 1)
            start = time.time()
            servers = [address(server.url), address(pipelines.url)]
            document = configuration(folder, servers, targets)
            document["scrape_configs"].append(guarded(commands, Keys(folder / "cluster")))
            with Prometheus(program, folder, document) as prometheus:
                yield live_through(prometheus, server, workers, start)
        finally:
            for name, said in commands.said().items():
                print(f"--- {name}\n{said}")


def guarded(commands, keys):
    """A server that asks who reads it, whose certificate ends within the hour; how our own configuration reads it."""
    keys.end("server", in_seconds=3600)
    pair = keys.pair("server")
    server = commands.serve(
        *("--tls-cert", pair.cert, "--tls-key", pair.key, "--tokens", keys.folder / "server" / "tokens.toml")
    )
    shipped, _ = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    shipped["authorization"]["credentials_file"] = str(keys.of("reader") / "token")
    shipped["tls_config"]["ca_file"] = str(keys.of("reader") / "ca.pem")
    return shipped | {"job_name": "guarded", "static_configs": [{"targets": [address(server.url)]}]}


def address(url):
    return url.split("/")[2].strip()


def configuration(folder, servers, workers):
    """Our own configuration of Prometheus with these targets: w2's is in a file, as that of one who came later."""
    document = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    document["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    ours, theirs = document["scrape_configs"]
    # This run is on loopback, where nobody asks who reads; with credentials it is `docs/how-to/server-on-a-network.md`.
    for config in (ours, theirs):
        for key in ("scheme", "authorization", "tls_config"):
            config.pop(key, None)
    ours["static_configs"] = [{"targets": servers}]
    theirs["static_configs"] = [{"targets": [target for rank, target in workers.items() if rank != "w2"]}]
    (folder / "targets").mkdir()
    (folder / "targets" / "later.yaml").write_text(yaml.safe_dump([{"targets": [workers["w2"]]}]))
    (folder / "rules").mkdir()
    (folder / "rules" / "rules.yaml").write_text(Rules(PACE.window).encoded())
    (folder / "rules" / "alerts.yaml").write_text(alerts.encoded_alerts(PACE))
    return document


def live_through(prometheus, server, workers, start):
    """Make everything happen, and wait for each until Prometheus has it."""

    def seen(expression):
        # Many series begin at 0 before anything happened.
        until(lambda: prometheus.ask(f"({expression}) > 0"), SECONDS, expression)

    def growing(metric, part=""):
        seen(f"rate({metric.name}{part}[{PACE.window}])")

    for metric in (
        server_metrics.CERTIFICATE_EXPIRY,
        server_metrics.STEPS,
        server_metrics.NON_FINITE,
        worker_metrics.SKIPS,
        worker_metrics.EVALUATION,
    ):
        seen(metric.name)
    seen(f'{server_metrics.REPORTED.name}{{figure="test_accuracy"}}')
    status, _, _ = server.request("GET", "/v1/params?min_version=many")
    assert status == 400
    # There and back: rounds of sync, changes of the policy.
    server.ask("PUT", "/v1/policy", {"mode": "sync"})
    growing(server_metrics.ROUND_SECONDS, "_count")
    server.ask("PUT", "/v1/policy", {"mode": "ssp", "staleness": 2})
    seen(server_metrics.STALENESS_BOUND.name)
    growing(server_metrics.SWITCHES)

    held = pause(prometheus, server, workers["w2"])
    # Everybody is at the bound now, so the newest version stays the newest.
    etag = server.version(at_least=1)
    until(lambda: server.request("GET", "/v1/params", headers={"If-None-Match": etag})[0] == 304, SECONDS, "a 304")
    seen(server_metrics.SPARED_BYTES.name)
    seen(f'{server_metrics.DEPARTURES.name}{{reason="lease-expired"}}')
    workers["w2"].signal(signal.SIGCONT)
    seen(worker_metrics.REJOINS.name)
    seen(worker_metrics.DROPPED.name)
    seen(f'count (changes({server_metrics.CLOCK.name}{{rank=~"w.+"}}[{PACE.window}]) > 0) == 3')
    growing(worker_metrics.HANDED_BYTES)
    seen(server_metrics.STAGES_MISSING.name)
    calm = time.time()
    workers["w1"].kill()
    server.kill()
    gone = {"LeewayServerDown", "LeewayWorkerDown"}
    until(lambda: gone <= {labels["alertname"] for labels in prometheus.firing()}, SECONDS, f"{gone} fire")
    end = time.time()
    earlier = prometheus.course('ALERTS{alertstate="firing"}', start, end)
    fired = gone | {labels["alertname"] for labels in earlier}
    return Watched(prometheus, start, calm, end, held, fired)


def pause(prometheus, server, worker):
    """Pause a worker in the middle of an iteration, and return the alert that tells who holds the others up."""

    def clock():
        [one] = [one for one in server.status()["workers"] if one["rank"] == worker.name]
        return one["groups"]["default"]["clock"]

    def told():
        held = [one for one in prometheus.firing() if one["alertname"] == "LeewayBarrierHeldByOneRank"]
        return [one for one in held if one["rank"] == worker.name]

    def caught():
        before, asked = clock(), [time.monotonic()]

        def moved():
            asked.append(time.monotonic())
            return clock() > before

        until(moved, SECONDS, f"{worker.name} begins an iteration")
        worker.signal(signal.SIGSTOP)
        # The iteration began between the last two questions.
        if time.monotonic() - asked[-2] < NAP_SECONDS / 2:
            return True
        worker.signal(signal.SIGCONT)
        return False

    until(lambda: not told(), SECONDS, f"nobody waits for {worker.name}")
    until(caught, SECONDS, f"{worker.name} is caught in its nap")
    [alert] = until(told, LEASE_SECONDS, "the alert fires before the worker is evicted")
    return alert


def filled_in(expression):
    for variable, value in CHOSEN.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


ASKED = [question for name in BOARDS for question in questions(name)]


@pytest.mark.parametrize("question", ASKED, ids=str)
def test_a_query_returns_data(watched, question):
    asked, prometheus = filled_in(question.expression), watched.prometheus
    if question.label is not None:
        assert prometheus.values(question.label, asked, watched.start, watched.end)
    elif question.instant:
        assert prometheus.ask(asked, watched.calm)
    else:
        assert prometheus.course(asked, watched.start, watched.end)


NAMED = [
    pytest.param(panel, target, id=f"{name}: {panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
    for target in panel.get("targets", [])
    if "{{" in target.get("legendFormat", "")
]


@pytest.mark.parametrize(("panel", "target"), NAMED)
def test_every_label_in_a_legend_has_a_value(watched, panel, target):
    wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    for labels in watched.prometheus.course(filled_in(target["expr"]), watched.start, watched.end):
        assert wanted <= set(labels)


@pytest.mark.parametrize("rule", Rules(PACE.window).all(), ids=lambda rule: rule.name)
def test_a_rule_records(watched, rule):
    assert watched.prometheus.course(rule.expression, watched.start, watched.end)
    assert watched.prometheus.course(rule.name, watched.start, watched.end)


@pytest.mark.parametrize("alert", alerts.alerts(PACE), ids=lambda alert: alert.name)
def test_an_alert_has_something_to_look_at(watched, alert):
    # The difference in place of the comparison: there are numbers on both sides.
    compared = re.sub(r"(==|>=|>|<) (?=\d|on )", "- ", alert.expression)
    assert compared != alert.expression
    assert watched.prometheus.course(compared, watched.start, watched.end)


def test_the_alert_names_the_worker_that_was_paused(watched):
    assert watched.held["rank"] == "w2"
    assert watched.held["group"] == "default"
    assert watched.held["job"] == "leeway"


def test_what_happened_was_told(watched):
    assert {
        "LeewayBarrierHeldByOneRank",
        "LeewayCertificateEnds",
        "LeewayNonFiniteUpdates",
        "LeewayServerDown",
        "LeewayWorkerDown",
        "LeewayWorkerEvicted",
    } <= watched.fired
    assert not {"LeewayCheckpointFailed", "LeewayInsecure", "LeewayNoCheckpoint"} & watched.fired


def test_nothing_in_it_was_refused(watched):
    """Prometheus complains of rules that cannot be evaluated, and of samples that it cannot take."""
    bad = [line for line in watched.prometheus.said.splitlines() if "level=error" in line or "out-of-order" in line]
    assert bad == []
    rules = [rule for group in watched.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
