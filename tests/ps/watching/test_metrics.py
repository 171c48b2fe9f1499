"""What the server exposes: all of its catalogue, nothing else, in a form that Prometheus reads."""

from __future__ import annotations

import math

import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from leeway.protocol.codes import Code
from leeway.protocol.metrics import MetricType
from leeway.protocol.pushes import Disposition
from leeway.protocol.reasons import Reason
from leeway.ps.watching.catalogue import CATALOGUE
from leeway.ps.watching.metrics import GroupView, ServerMetrics, WorkerState, WorkerView


def of_two_workers() -> list[GroupView]:
    workers = (
        WorkerView("w0", 7, 2, WorkerState.WAITING, waiting_seconds=3.5, reported={"loss": 0.5, "accuracy": None}),
        WorkerView("w1", 5, 0, WorkerState.COMPUTING, held_seconds=2.5),
    )
    return [view(workers, version=12, live_versions=2, missing_stages={"r0": 3})]


def view(workers, **changes) -> GroupView:
    settings = {"policy": "ssp", "staleness_bound": 2, "learning_rate": 0.1}
    return GroupView("default", min_clock=5, workers=workers, **(settings | changes))


def with_everything_recorded() -> ServerMetrics:
    metrics = ServerMetrics(of_two_workers)
    metrics.begin_group("default")
    metrics.answered("/v1/params", "GET", 200, 0.3)
    metrics.received("/v1/updates", 100)
    metrics.sent("/v1/params", 200)
    metrics.spared("default", 200)
    metrics.refused("/v1/updates", Code.NOT_GRANTED)
    metrics.body_aborted()
    metrics.slow_reader_closed()
    metrics.connection_closed("idle")
    metrics.pushed("default", Disposition.APPLIED, Reason.ON_ARRIVAL)
    metrics.non_finite("default")
    metrics.non_finite_version("default")
    metrics.pull_answered("default", Reason.LAG, 0.2)
    metrics.pull_granted("default", 3)
    metrics.round_closed("default", 2.5)
    metrics.switched("default")
    metrics.stepped("default", 0.01, [0, 4], [4096, 8192], 1.5)
    metrics.joined()
    metrics.departed(Reason.LEASE_EXPIRED)
    metrics.begin_checkpoints(1.7e9)
    metrics.certificate_ends(1.9e9)
    metrics.checkpoint_saved(0.5, 10_000, 1.8e9)
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
    if metric.type is MetricType.HISTOGRAM:
        in_base_units = metric.name.endswith(("_seconds", "_bytes"))
        assert in_base_units or metric.name in ("leeway_server_staleness", "leeway_server_grant_lag")


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

        assert value("leeway_server_waiting_seconds_total", {"group": "default", "rank": "w0"}) == 3.5
        assert value("leeway_server_barrier_held_seconds_total", {"group": "default", "rank": "w1"}) == 2.5
        assert value("leeway_server_reported", {"rank": "w0", "figure": "loss"}) == 0.5
        assert math.isnan(value("leeway_server_reported", {"rank": "w0", "figure": "accuracy"}))
        assert value("leeway_server_policy", {"group": "default", "mode": "ssp"}) == 1
        assert value("leeway_server_staleness_bound", {"group": "default"}) == 2
        assert value("leeway_server_learning_rate", {"group": "default"}) == 0.1
        assert value("leeway_server_stages_missing", {"group": "default", "rank": "r0"}) == 3

        left = groups[0].workers[1:]
        groups[0] = view(left, version=13, live_versions=1, policy="sync", staleness_bound=None)
        assert value("leeway_server_clock", {"group": "default", "rank": "w0"}) is None
        assert value("leeway_server_waiting_seconds_total", {"group": "default", "rank": "w0"}) is None
        assert value("leeway_server_reported", {"rank": "w0", "figure": "loss"}) is None
        assert value("leeway_server_policy", {"group": "default", "mode": "ssp"}) is None
        assert value("leeway_server_staleness_bound", {"group": "default"}) is None
        assert value("leeway_server_stages_missing", {"group": "default", "rank": "r0"}) is None
        assert value("leeway_server_version", {"group": "default"}) == 13
        assert value("leeway_server_workers", {"group": "default", "state": "waiting"}) == 0

    def test_is_not_read_while_the_server_is_made(self) -> None:
        def not_yet() -> list[GroupView]:
            raise AssertionError("the state is not there yet")

        ServerMetrics(not_yet)


def test_a_step_counts_each_update_in_it() -> None:
    metrics = ServerMetrics()
    metrics.stepped("default", 0.02, [0, 0, 4], [4096, 4096, 5000], None)
    value = metrics.registry.get_sample_value
    group = {"group": "default"}
    assert value("leeway_server_steps_total", group) == 1
    assert value("leeway_server_staleness_count", group) == 3
    assert value("leeway_server_staleness_bucket", group | {"le": "0.0"}) == 2
    assert value("leeway_server_staleness_bucket", group | {"le": "5.0"}) == 3
    assert value("leeway_server_apply_seconds_sum", group) == pytest.approx(0.02)
    assert value("leeway_server_update_bytes_bucket", group | {"le": "4096.0"}) == 2
    assert value("leeway_server_gradient_norm", group) is None


def test_a_group_is_counted_from_zero() -> None:
    metrics = ServerMetrics()
    metrics.begin_group("default")
    value, group = metrics.registry.get_sample_value, {"group": "default"}
    for name in ("steps_total", "switches_total", "non_finite_total", "spared_bytes_total", "round_seconds_count"):
        assert value(f"leeway_server_{name}", group) == 0, name
    assert value("leeway_server_gradient_norm", group) is None, "0 would be a claim"


def test_what_an_alert_watches_is_counted_from_zero() -> None:
    value = ServerMetrics().registry.get_sample_value
    assert value("leeway_server_departures_total", {"reason": "lease-expired"}) == 0
    assert value("leeway_server_checkpoints_total", {"outcome": "failed"}) == 0


def test_the_end_of_a_certificate_is_there_with_tls_alone() -> None:
    metrics = ServerMetrics()
    value = metrics.registry.get_sample_value
    assert value("leeway_server_certificate_expiry_timestamp_seconds") is None
    for time in (1.8e9, 1.9e9):
        metrics.certificate_ends(time)
        assert value("leeway_server_certificate_expiry_timestamp_seconds") == time


class TestCheckpoints:
    def test_have_no_time_where_there_are_none(self) -> None:
        assert ServerMetrics().registry.get_sample_value("leeway_server_checkpoint_timestamp_seconds") is None

    def test_have_that_of_the_newest(self) -> None:
        metrics = ServerMetrics()
        value = metrics.registry.get_sample_value
        metrics.begin_checkpoints(1.7e9)
        assert value("leeway_server_checkpoint_timestamp_seconds") == 1.7e9
        metrics.checkpoint_saved(0.5, 10_000, 1.8e9)
        metrics.checkpoint_saved(0.5, 10_000, 1.9e9)
        assert value("leeway_server_checkpoint_timestamp_seconds") == 1.9e9
        assert value("leeway_server_checkpoint_bytes_total") == 20_000
