"""What the server exposes: all of its catalogue, nothing else, in a form that Prometheus reads."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from protocol.errors import Code
from protocol.metrics import MetricType
from protocol.reasons import Reason
from protocol.replies import Disposition
from ps.observability.catalogue import CATALOGUE
from ps.observability.metrics import GroupView, ServerMetrics, WorkerState, WorkerView


def of_two_workers() -> list[GroupView]:
    workers = (WorkerView("w0", 7, 2, WorkerState.WAITING), WorkerView("w1", 5, 0, WorkerState.COMPUTING))
    return [GroupView("default", version=12, live_versions=2, min_clock=5, workers=workers)]


def with_everything_recorded() -> ServerMetrics:
    metrics = ServerMetrics(of_two_workers)
    metrics.answered("/v1/params", "GET", 200)
    metrics.received("/v1/updates", 100)
    metrics.sent("/v1/params", 200)
    metrics.refused(Code.NOT_GRANTED)
    metrics.body_aborted()
    metrics.slow_reader_closed()
    metrics.pushed("default", Disposition.APPLIED, Reason.ON_ARRIVAL)
    metrics.non_finite("default")
    metrics.pull_answered("default", Reason.LAG, 0.2)
    metrics.round_closed("default")
    metrics.stepped("default", 0.01, [0, 4], 1.5)
    metrics.joined()
    metrics.departed(Reason.LEASE_EXPIRED)
    metrics.checkpoint_saved(0.5)
    metrics.checkpoint_failed()
    metrics.event_loop_lagged(0.001)
    return metrics


def families(metrics: ServerMetrics) -> dict:
    return {family.name: family for family in parse(generate_latest(metrics.registry).decode())}


def test_every_entry_is_exposed_with_its_type_help_and_labels() -> None:
    exposed = families(with_everything_recorded())
    for metric in CATALOGUE:
        family = exposed[metric.name.removesuffix("_total")]
        assert family.type == metric.type
        assert family.documentation == metric.help
        assert family.samples, metric.name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)


def test_nothing_of_ours_is_exposed_that_is_not_in_the_catalogue() -> None:
    ours = {name for name in families(with_everything_recorded()) if name.startswith("leeway_")}
    known = {metric.name.removesuffix("_total") for metric in CATALOGUE}
    assert {name for name in ours if not name.endswith("_created")} == known


def test_the_process_is_watched_too() -> None:
    assert {"process_resident_memory_bytes", "python_info"} <= set(families(ServerMetrics()))


def test_openmetrics_reads_it_as_well() -> None:
    text = generate_openmetrics(with_everything_recorded().registry).decode()
    assert {family.name for family in parse_openmetrics(text)} >= {"leeway_server_pushes", "leeway_server_lag"}


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric) -> None:
    assert metric.name.startswith("leeway_server_")
    assert metric.help.endswith(".")
    assert ("_seconds" in metric.name) == (metric.type is MetricType.HISTOGRAM and "staleness" not in metric.name)


def test_names_are_told_apart() -> None:
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)


class TestLiveState:
    def test_is_what_it_is_when_asked(self) -> None:
        groups = of_two_workers()
        metrics = ServerMetrics(lambda: groups)
        value = metrics.registry.get_sample_value
        assert value("leeway_server_clock", {"group": "default", "rank": "w0"}) == 7
        assert value("leeway_server_lag", {"group": "default", "rank": "w0"}) == 2
        assert value("leeway_server_min_clock", {"group": "default"}) == 5
        assert value("leeway_server_version", {"group": "default"}) == 12
        assert value("leeway_server_workers", {"group": "default", "state": "waiting"}) == 1

        groups[0] = GroupView("default", version=13, live_versions=1, min_clock=5, workers=groups[0].workers[1:])
        assert value("leeway_server_clock", {"group": "default", "rank": "w0"}) is None
        assert value("leeway_server_version", {"group": "default"}) == 13
        assert value("leeway_server_workers", {"group": "default", "state": "waiting"}) == 0

    def test_is_not_read_while_the_server_is_made(self) -> None:
        def not_yet() -> list[GroupView]:
            raise AssertionError("the state is not there yet")

        ServerMetrics(not_yet)


def test_a_step_counts_each_update_in_it() -> None:
    metrics = ServerMetrics()
    metrics.stepped("default", 0.02, [0, 0, 4], None)
    value = metrics.registry.get_sample_value
    group = {"group": "default"}
    assert value("leeway_server_steps_total", group) == 1
    assert value("leeway_server_staleness_count", group) == 3
    assert value("leeway_server_staleness_bucket", group | {"le": "0.0"}) == 2
    assert value("leeway_server_staleness_bucket", group | {"le": "5.0"}) == 3
    assert value("leeway_server_apply_seconds_sum", group) == pytest.approx(0.02)
    assert value("leeway_server_gradient_norm", group) is None
