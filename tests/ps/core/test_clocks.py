from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.ps.core.clocks import Clocks


def of(*values: int) -> Clocks:
    clocks = Clocks(min(values))
    for value in values:
        clocks.add(value)
    return clocks


def test_nobody_is_live_at_first():
    clocks = Clocks(4)
    assert (len(clocks), clocks.minimum, clocks.maximum) == (0, 4, 4)


def test_the_first_to_come_is_the_minimum():
    clocks = Clocks()
    clocks.add(7)
    assert (clocks.minimum, clocks.maximum) == (7, 7)


def test_the_minimum_goes_on_when_the_last_of_the_slowest_does():
    clocks = of(2, 2, 3)
    clocks.advance(2, 3)
    assert clocks.minimum == 2
    clocks.advance(2, 3)
    assert clocks.minimum == 3


def test_the_minimum_jumps_when_the_slowest_goes():
    clocks = of(0, 5, 9)
    clocks.remove(0)
    assert (clocks.minimum, clocks.maximum) == (5, 9)


def test_the_minimum_is_kept_when_nobody_is_left():
    clocks = of(3, 6)
    clocks.remove(3)
    clocks.remove(6)
    assert (len(clocks), clocks.minimum, clocks.maximum) == (0, 6, 6)


def test_nobody_starts_below_the_minimum():
    with pytest.raises(AssertionError, match="may not start at 2, below the minimum 3"):
        of(3).add(2)


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "advance"]), st.integers(0, 5))))
def test_it_counts_as_a_list_would_and_never_goes_back(moves):
    clocks, plain, least = Clocks(), [], 0
    for move, n in moves:
        if move == "add":
            clocks.add(least + n)
            plain.append(least + n)
        elif plain:
            clock = plain.pop(n % len(plain))
            if move == "remove":
                clocks.remove(clock)
            else:
                clocks.advance(clock, clock + 1)
                plain.append(clock + 1)
        least = min(plain, default=least)
        assert (len(clocks), clocks.minimum, clocks.maximum) == (len(plain), least, max(plain, default=least))
