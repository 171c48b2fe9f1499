"""How much each may ask for in a second."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.transport import quotas
from leeway.transport.quotas import BURST_SECONDS, HEARTBEATS_PER_SECOND, Quota, Quotas


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_without_a_limit_nobody_waits():
    free = Quota(None)
    free.pay("w0", 1e9, 0.0)
    assert free.wait_seconds("w0", 0.0) == 0


def test_what_was_not_used_may_be_used_later():
    quota = Quota(2.0)
    for _ in range(int(2 * BURST_SECONDS)):
        assert quota.wait_seconds("w0", 0.0) == 0
        quota.pay("w0", 1, 0.0)
    quota.pay("w0", 1, 0.0)
    assert quota.wait_seconds("w0", 0.0) == 0.5
    assert quota.wait_seconds("w1", 0.0) == 0
    assert quota.wait_seconds("w0", 0.5) == 0
    assert quota.wait_seconds("w0", 1e6) == 0
    quota.pay("w0", 2 * BURST_SECONDS + 1, 1e6)
    assert quota.wait_seconds("w0", 1e6) == 0.5


def test_a_body_of_any_size_is_let_in_and_paid_for():
    quota = Quota(100.0)
    quota.pay("w0", 100 * BURST_SECONDS + 1000, 0.0)
    assert quota.wait_seconds("w0", 0.0) == 10
    assert quota.wait_seconds("w0", 9.0) == 1


def test_so_many_are_remembered(monkeypatch):
    monkeypatch.setattr(quotas, "MOST", 3)
    quota = Quota(1.0)
    for name in ("a", "b", "c", "a", "d"):
        quota.pay(name, 100, 0.0)
    assert [quota.wait_seconds(name, 0.0) > 0 for name in "abcd"] == [True, False, True, True]


def test_a_heartbeat_gets_through_while_the_rest_waits():
    clock = Clock()
    both = Quotas(clock, 1.0, 1000.0)
    both.carried("w0", 20_000)
    assert both.ask("w0", heartbeat=False) == 10
    assert both.ask("w0", heartbeat=True) == 0
    for _ in range(int(BURST_SECONDS * HEARTBEATS_PER_SECOND)):
        both.ask("w0", heartbeat=True)
    assert both.ask("w0", heartbeat=True) == pytest.approx(1 / HEARTBEATS_PER_SECOND)
    assert both.ask("w1", heartbeat=False) == 0


def test_who_is_told_to_wait_has_not_paid():
    clock = Clock()
    both = Quotas(clock, 1.0, None)
    for _ in range(int(BURST_SECONDS) + 1):
        assert both.ask("w0", heartbeat=False) == 0
    for _ in range(100):
        assert both.ask("w0", heartbeat=False) == pytest.approx(1.0)
    clock.now = 1.0
    assert both.ask("w0", heartbeat=False) == 0


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 50)), max_size=60), st.floats(0.5, 20))
def test_over_any_time_it_is_no_more_than_the_rate_and_a_burst_and_one_body(asked, rate):
    quota, now, total, largest = Quota(rate), 0.0, 0.0, 0.0
    for gap, size in asked:
        now += gap
        if quota.wait_seconds("w0", now) == 0:
            quota.pay("w0", size, now)
            total += size
            largest = max(largest, size)
    assert total <= rate * (now + BURST_SECONDS) + largest + 1e-6
