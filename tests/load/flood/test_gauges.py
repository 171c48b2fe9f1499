import math

import pytest

from tests.load.flood.gauges import Reading, lag_mean, lag_quantile, parse

PAGE = """# HELP leeway_server_event_loop_lag_seconds How late.
# TYPE leeway_server_event_loop_lag_seconds histogram
leeway_server_event_loop_lag_seconds_bucket{le="0.001"} 5.0
leeway_server_event_loop_lag_seconds_bucket{le="+Inf"} 7.0
leeway_server_event_loop_lag_seconds_count 7.0
leeway_server_event_loop_lag_seconds_sum 0.5
# HELP leeway_server_received_bytes_total Bytes.
# TYPE leeway_server_received_bytes_total counter
leeway_server_received_bytes_total{route="/v1/updates"} 1e+06
leeway_server_received_bytes_total{route="/v1/params"} 12.0
"""


def reading(*buckets, seconds=0.0):
    bounds = (0.001, 0.01, 0.1, math.inf)
    return Reading({}, {}, seconds, buckets[-1], dict(zip(bounds, buckets, strict=True)))


NOTHING = reading(0, 0, 0, 0)


def test_a_page_is_read():
    found = parse(PAGE)
    assert found.received_bytes == {"/v1/updates": 1_000_000, "/v1/params": 12}
    assert found.sent_bytes == {}
    assert (found.lag_seconds, found.lag_count, found.lag_buckets) == (0.5, 7, {0.001: 5, math.inf: 7})


@pytest.mark.parametrize(
    ("buckets", "share", "seconds"),
    [
        ((10, 10, 10, 10), 0.5, 0.0005),
        ((10, 10, 10, 10), 1.0, 0.001),
        ((0, 10, 10, 10), 0.5, 0.0055),
        ((5, 5, 10, 10), 0.75, 0.055),
        ((0, 0, 9, 10), 0.99, math.inf),
        ((0, 0, 0, 1), 0.5, math.inf),
    ],
)
def test_quantiles_are_interpolated_in_their_bucket(buckets, share, seconds):
    assert lag_quantile(NOTHING, reading(*buckets), share) == pytest.approx(seconds)


def test_only_what_happened_in_between_counts():
    before, after = reading(0, 0, 0, 50, seconds=50.0), reading(4, 4, 4, 54, seconds=50.002)
    assert lag_quantile(before, after, 0.99) <= 0.001
    assert lag_mean(before, after) == pytest.approx(0.0005)


def test_of_nothing_there_is_no_figure():
    assert lag_quantile(NOTHING, NOTHING, 0.99) is None
    assert lag_mean(NOTHING, NOTHING) is None
