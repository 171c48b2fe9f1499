"""What a worker exposes: all of its catalogue, and nothing else."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse

from leeway.protocol.metrics import MetricType
from leeway.worker.watching.catalogue import CATALOGUE, OF_A_STAGE
from leeway.worker.watching.metrics import SkipCause, WorkerMetrics
from tests.worker.watching.recorded import with_everything_recorded


def test_every_entry_is_exposed_and_nothing_else() -> None:
    text = generate_latest(with_everything_recorded().registry).decode()
    exposed = {family.name: family for family in parse(text)}
    assert {name for name in exposed if not name.startswith("process_")} == {
        metric.name.removesuffix("_total") for metric in CATALOGUE
    }
    for metric in CATALOGUE:
        family = exposed[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.type, metric.help)
        assert family.samples, metric.name
        assert all(set(sample.labels) - {"le"} == set(metric.labels) for sample in family.samples)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric) -> None:
    assert metric.name.startswith("leeway_worker_")
    assert metric.help.endswith(".")
    assert metric.name.endswith("_seconds") == (metric.type is MetricType.HISTOGRAM)


def test_values_are_what_was_recorded() -> None:
    value = with_everything_recorded().registry.get_sample_value
    assert value("leeway_worker_samples_total") == 64
    assert value("leeway_worker_clock") == 7
    assert value("leeway_worker_lag") == 2
    assert value("leeway_worker_staleness") == 3
    assert value("leeway_worker_loss") == 0.25
    assert value("leeway_worker_wait_seconds_sum") == pytest.approx(0.3)
    assert value("leeway_worker_pushes_total", {"disposition": "applied"}) == 1
    assert value("leeway_worker_evaluation", {"figure": "accuracy"}) == 0.75


def test_bytes_are_told_as_totals() -> None:
    metrics = with_everything_recorded()
    metrics.exchanged(700, 900, 2)
    metrics.exchanged(700, 950, 3)
    value = metrics.registry.get_sample_value
    assert value("leeway_worker_sent_bytes_total") == 700
    assert value("leeway_worker_received_bytes_total") == 950
    assert value("leeway_worker_reconnects_total") == 3


def test_what_a_stage_tells() -> None:
    metrics = with_everything_recorded()
    metrics.handed_over(1500, 2000, 1)
    value = metrics.registry.get_sample_value
    assert value("leeway_worker_bubble_seconds_sum") == pytest.approx(0.05)
    assert value("leeway_worker_micro_batches_in_flight") == 3
    assert value("leeway_worker_activation_bytes") == 4096
    assert value("leeway_worker_handed_bytes_total") == 1500
    assert value("leeway_worker_taken_bytes_total") == 2000
    assert value("leeway_worker_handovers_resent_total") == 1
    assert value("leeway_worker_dropped_iterations_total") == 1


def test_who_a_process_is() -> None:
    metrics = WorkerMetrics("w0", "digits")
    assert _infos(metrics) == [("w0", "digits", "", "")]
    metrics.began_as_stage(1, 4)
    assert _infos(metrics) == [("w0", "digits", "1", "4")]


def _infos(metrics):
    names = ("rank", "task", "stage", "stages")
    [info] = [family for family in metrics.registry.collect() if family.name == "leeway_worker_info"]
    return [tuple(sample.labels[name] for name in names) for sample in info.samples]


def test_a_worker_that_is_no_stage_shows_nothing_of_stages() -> None:
    metrics = WorkerMetrics("w0", "digits")
    names = {metric.name.removesuffix("_total") for metric in OF_A_STAGE}
    assert not names & {family.name for family in metrics.registry.collect()}
    metrics.began_as_stage(0, 2)
    assert names <= {family.name for family in metrics.registry.collect()}


def test_there_is_no_loss_and_no_staleness_before_the_first() -> None:
    metrics = WorkerMetrics("w0", "digits")
    value = metrics.registry.get_sample_value
    metrics.pulled(0.1, clock=1, lag=0, staleness=None)
    assert value("leeway_worker_loss") is value("leeway_worker_staleness") is None
    for number in (0, 3):
        metrics.reported({"loss": float(number)})
        metrics.pulled(0.1, clock=1, lag=0, staleness=number)
    assert value("leeway_worker_loss") == value("leeway_worker_staleness") == 3


def test_the_process_is_watched_too() -> None:
    text = generate_latest(WorkerMetrics("w0", "digits").registry).decode()
    assert "\nprocess_resident_memory_bytes " in text


def test_every_cause_of_a_skip_is_explained() -> None:
    [skips] = [metric for metric in CATALOGUE if metric.name == "leeway_worker_skips_total"]
    assert all(cause in skips.help for cause in SkipCause)
