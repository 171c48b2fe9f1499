import pytest

from dashboards.queries import CPU_SECONDS, RESIDENT_BYTES, UP, Part, Scope
from leeway.protocol.metrics import Metric, MetricType
from leeway.ps.watching import catalogue as server
from leeway.worker.watching import catalogue as worker

RULES = Scope("5m")
CHOSEN = Scope("1m", server=('job="s"',), worker=('job="w"',), labels={"group": 'group="g"', "rank": 'rank=~"$rank"'})


def test_a_series_has_the_matchers_of_its_side_and_of_the_labels_that_it_has():
    assert RULES.series(server.CLOCK) == "leeway_server_clock"
    assert CHOSEN.series(server.CLOCK) == 'leeway_server_clock{job="s", group="g", rank=~"$rank"}'
    assert CHOSEN.series(server.VERSION) == 'leeway_server_version{job="s", group="g"}'
    assert CHOSEN.series(worker.LOSS) == 'leeway_worker_loss{job="w"}'
    assert CHOSEN.series(worker.INFO) == 'leeway_worker_info{job="w", rank=~"$rank"}'
    assert CHOSEN.series(RESIDENT_BYTES) == 'process_resident_memory_bytes{job="s"}'


def test_more_matchers():
    assert RULES.series(server.REFUSED, 'code!="late"') == 'leeway_server_refused_total{code!="late"}'
    assert RULES.series(UP, 'job!~"a|b"') == 'up{job!~"a|b"}'


def test_growth():
    assert RULES.rate(server.STEPS) == "rate(leeway_server_steps_total[5m])"
    assert RULES.rate(server.STEPS, by=()) == "sum (rate(leeway_server_steps_total[5m]))"
    assert RULES.increase(server.PUSHES, by=["reason"]) == "sum by (reason) (increase(leeway_server_pushes_total[5m]))"
    assert RULES.rate(CPU_SECONDS, by=["instance"]).startswith("sum by (instance)")


def test_histograms():
    assert RULES.quantile(0.99, server.APPLY_SECONDS, by=["group"]) == (
        "histogram_quantile(0.99, sum by (le, group) (rate(leeway_server_apply_seconds_bucket[5m])))"
    )
    assert RULES.mean(server.STALENESS) == (
        "sum (rate(leeway_server_staleness_sum[5m])) / sum (rate(leeway_server_staleness_count[5m]))"
    )
    assert RULES.buckets(server.STALENESS) == "sum by (le) (increase(leeway_server_staleness_bucket[5m]))"


def test_events_are_seen_from_the_first_one():
    # A labelled counter appears with its first event, as 1: no rate can see that it grew.
    assert RULES.happened(server.NON_FINITE) == (
        "increase(leeway_server_non_finite_total[5m]) > 0 "
        "or (leeway_server_non_finite_total unless leeway_server_non_finite_total offset 5m) > 0"
    )


def test_a_worker_s_series_get_its_rank():
    assert CHOSEN.with_rank(CHOSEN.series(worker.LOSS)) == (
        'leeway_worker_loss{job="w"} * on (job, instance) group_left (rank) leeway_worker_info{job="w", rank=~"$rank"}'
    )


def test_a_stage_s_series_get_its_rank_and_number():
    assert CHOSEN.with_stage(CHOSEN.series(worker.IN_FLIGHT)) == (
        'leeway_worker_micro_batches_in_flight{job="w"} * on (job, instance) group_left (rank, stage) '
        'leeway_worker_info{job="w", stage!="", rank=~"$rank"}'
    )


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: RULES.series(Metric("leeway_server_gone", MetricType.GAUGE, "Gone.")), "is in no catalogue"),
        (lambda: RULES.series(server.CLOCK, 'code="x"'), "has no label code; it has group, rank"),
        (lambda: RULES.rate(server.STEPS, by=["rank"]), "has no label rank"),
        (lambda: RULES.rate(server.STEPS, by=["le"]), "has no label le"),
        (lambda: RULES.rate(server.CLOCK), "a gauge has no rate"),
        (lambda: RULES.increase(server.CLOCK), "a gauge has no increase"),
        (lambda: RULES.quantile(0.5, server.STEPS), "the parts of a histogram"),
        (lambda: RULES.series(server.STALENESS), "the parts of a histogram"),
        (lambda: RULES.rate(server.STALENESS), "the parts of a histogram"),
        (lambda: RULES.series(server.STEPS, part=Part.SUM), "the parts of a histogram"),
    ],
)
def test_what_cannot_be_answered_cannot_be_written(ask, said):
    with pytest.raises(ValueError, match=said):
        ask()
