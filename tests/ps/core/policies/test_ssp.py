from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Answer, Park
from leeway.ps.core.policies import Ssp


@pytest.mark.parametrize("lead", range(4))
@pytest.mark.parametrize("bound", range(3))
def test_a_pull_is_answered_at_a_lag_of_at_most_the_bound(group_of, bound, lead):
    decision = Ssp(bound).pull(group_of(w0=5 + lead, w1=5, w2=9), "w0")
    assert isinstance(decision, Answer) == (lead <= bound)


def test_it_says_who_is_led_and_by_how_much(group_of):
    assert Ssp(2).pull(group_of(w0=8, w1=5, w2=6, w3=5), "w0") == Park(
        Reason.LAG, "w0 leads w1,w3 by 3 > 2", ("w1", "w3"), 6
    )


@given(st.integers(0, 5), st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_the_slowest_always_goes_on(bound, clocks):
    class View:
        assembled = True
        min_clock = min(clocks)

        def clock_of(self, rank):
            return self.min_clock

    assert Ssp(bound).pull(View(), "w0") == Answer(Reason.GRANTED)
