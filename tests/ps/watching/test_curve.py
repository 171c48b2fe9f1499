"""The curve of a run: bounded, evenly spread, from the first point to the newest."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.ps.watching.curve import MAX_FIGURES, Curve, Point, Progress, mean_figures


def point(number):
    return Point(float(number), {"default": Progress(number, number, number, {"loss": 1.0})})


def filled(count, most):
    curve = Curve(most)
    for number in range(count):
        curve.add(point(number))
    return [int(one.seconds) for one in curve.points()]


class TestCurve:
    def test_is_empty_at_first(self):
        curve = Curve()
        assert (curve.points(), curve.newest) == ([], None)

    def test_keeps_all_while_there_is_room(self):
        assert filled(7, most=8) == list(range(7))

    def test_then_every_second_and_the_newest(self):
        assert filled(8, most=8) == [0, 2, 4, 6, 7]
        assert filled(9, most=8) == [0, 2, 4, 6, 8]
        assert filled(15, most=8) == [0, 4, 8, 12, 14]

    @given(st.integers(1, 400), st.integers(2, 20))
    def test_has_both_ends_and_even_spaces_whatever_its_length(self, count, most):
        seconds = filled(count, most)
        assert len(seconds) <= most
        assert (seconds[0], seconds[-1]) == (0, count - 1)
        spaces = [after - before for before, after in itertools.pairwise(seconds)]
        assert len(set(spaces[:-1])) <= 1
        assert spaces == sorted(spaces[:1]) or spaces[-1] <= spaces[0]
        # Thinned by halves: never fewer than a good third of what there is room for.
        assert len(seconds) >= min(count, most // 2)

    def test_needs_room_for_both_ends(self):
        with pytest.raises(ValueError, match="room for 2"):
            Curve(1)

    def test_fields(self):
        assert point(3).to_fields() == {
            "seconds": 3.0,
            "groups": {"default": {"version": 3, "updates": 3, "min_clock": 3, "figures": {"loss": 1.0}}},
        }


class TestMeanFigures:
    def test_is_over_those_who_report_it(self):
        assert mean_figures([{"loss": 1.0, "accuracy": 0.5}, {"loss": 2.0}, {}]) == {"loss": 1.5, "accuracy": 0.5}

    def test_leaves_out_what_is_not_finite(self):
        assert mean_figures([{"loss": None}, {"loss": 4.0}]) == {"loss": 4.0}
        assert mean_figures([{"loss": None}]) == {"loss": None}

    def test_of_huge_values_is_finite(self):
        assert math.isfinite(mean_figures([{"loss": 1.7e308}, {"loss": 1.7e308}])["loss"])

    def test_has_a_few_names_only(self):
        reported = [{f"a{number}": 1.0 for number in range(6)}, {f"b{number}": 1.0 for number in range(6)}]
        assert list(mean_figures(reported)) == [*reported[0], "b0", "b1"]
        assert len(mean_figures(reported)) == MAX_FIGURES

    def test_of_nobody(self):
        assert mean_figures([]) == {}
