"""What is made of measurements: histograms, curves, spreads, learning rates, and the logs of DDP."""

import math
from dataclasses import replace

import pytest

from tests.load import ddp
from tests.load.campaign import turns
from tests.load.comparison import Entry, Spread, compare
from tests.load.ddp import Step, waiting_shares
from tests.load.made_up import CONSTANT, MOVING, NONE, SCENARIO, result, results
from tests.load.reader import Metrics
from tests.load.search import Attempt, choose, families, pooled
from tests.load.systems import ASYNC, DDP, SYNC
from tests.load.trials import Histogram, Point
from tests.load.watching import updates_of


class TestHistogram:
    told = Histogram((0.0, 1.0, 3.0), (2, 5, 2, 1), 16.0)

    def test_mean_and_quantiles(self):
        assert self.told.mean == 1.6
        assert [self.told.quantile(share) for share in (0.2, 0.5, 0.9, 1.0)] == [0.0, 1.0, 3.0, math.inf]

    def test_without_values_there_is_neither(self):
        nothing = Histogram((0.0, 1.0), (0, 0, 0), 0.0)
        assert (nothing.mean, nothing.quantile(0.5), nothing.shares) == (None, None, [])

    def test_what_came_since(self):
        before = Histogram((0.0, 1.0, 3.0), (1, 5, 0, 0), 5.0)
        assert self.told.since(before) == Histogram((0.0, 1.0, 3.0), (1, 0, 2, 1), 11.0)
        assert before + self.told.since(before) == self.told

    def test_it_is_read_from_a_page_of_metrics(self):
        page = Metrics(
            "# TYPE lag histogram\n"
            'lag_bucket{group="a",le="0"} 2\nlag_bucket{group="a",le="1"} 7\nlag_bucket{group="a",le="+Inf"} 8\n'
            'lag_sum{group="a"} 9\nlag_count{group="a"} 8\n'
            'lag_bucket{group="b",le="0"} 1\nlag_bucket{group="b",le="1"} 1\nlag_bucket{group="b",le="+Inf"} 1\n'
            'lag_sum{group="b"} 0\nlag_count{group="b"} 1\n'
        )
        assert page.histogram("lag", group="a") == Histogram((0.0, 1.0), (2, 5, 1), 9.0)
        assert page.histogram("lag") == Histogram((0.0, 1.0), (3, 5, 1), 9.0)
        assert page.sum("lag_count") == 9
        assert page.sum("missing") == 0


class TestCurve:
    run = result("sync", NONE, 0, 2.0)

    def test_the_target_is_reached_by_the_first_snapshot_that_has_it(self):
        assert (self.run.seconds_to_target, self.run.updates_to_target) == (2.0, 200.0)
        assert result("sync", NONE, 0, None).seconds_to_target is None
        assert result("sync", NONE, 0, None).best_accuracy == 0.85

    def test_a_stroke_of_luck_does_not_count(self):
        accuracies = [0.5, 0.91, 0.6, 0.7, 0.8, 0.92, 0.91, 0.89, 0.93, 0.9]
        points = tuple(Point(float(at), 10.0 * at, accuracy) for at, accuracy in enumerate(accuracies))
        assert replace(self.run, points=points).seconds_to_target == 6.0

    def test_accuracy_between_snapshots_lies_on_a_line(self):
        assert self.run.accuracy_at(seconds=2.0) == pytest.approx(0.91)
        assert self.run.accuracy_at(seconds=6.0) == pytest.approx(0.93)
        assert self.run.accuracy_at(updates=600.0) == pytest.approx(0.93)
        assert self.run.accuracy_at(seconds=0.0) == 0.2

    def test_beyond_the_end_there_is_none(self):
        assert self.run.accuracy_at(updates=1001.0) is None

    def test_updates_in_a_version_lie_between_those_seen(self):
        known = [(1, 0), (11, 40), (11, 43), (21, 80)]
        assert [updates_of(version, known) for version in (1, 6, 11, 21, 22)] == [0, 20, 40, 80, 80]


class TestSpread:
    def test_a_difference_is_one_when_the_ranges_are_apart(self):
        assert Spread((1.0, 1.2)).below(Spread((1.3, 2.0)))
        assert not Spread((1.0, 1.2)).below(Spread((1.3, 2.0)), resolution=0.2)
        assert not Spread((1.0, 1.4)).below(Spread((1.3, 2.0)))
        assert not Spread((1.0,)).below(Spread((2.0, 3.0)))

    def test_never_is_longer_than_anything(self):
        assert Spread((1.0, 1.2)).below(Spread((math.inf, math.inf)))
        assert not Spread((1.0, math.inf)).below(Spread((2.0, math.inf)))
        assert Spread((1.0, math.inf, math.inf)).to_fields() == {"median": None, "low": 1.0, "high": None}

    def test_a_rank_that_stands_still_gives_no_lead(self):
        entry = Entry(SYNC, (result("sync", CONSTANT, 0, 1.0, paces=(10.0, 0.0)), result("sync", CONSTANT, 1, 1.0)))
        assert entry.lead == Spread((1.0,))


class TestComparison:
    def test_everything_has_its_place(self):
        made = results(MOVING, ddp=(2.0, 3.0, 2.5), sync=(1.0, 1.1, 1.2)) + results(NONE, sync=(1.0, 1.0, 1.0))
        none, moving = compare(SCENARIO, made[::-1])
        assert [entry.system for entry in moving.entries] == [SYNC, DDP]
        assert [one.trial.seed for one in moving.entries[0].results] == [0, 1, 2]
        assert (none.baseline.system, moving.baseline.system) == (SYNC, DDP)
        assert (moving.equal_seconds, moving.equal_updates) == (2.5, 250.0)

    def test_a_baseline_that_never_gets_there_is_compared_with_halfway(self):
        (moving,) = compare(SCENARIO, results(MOVING, ddp=(None, None), sync=(1.0, 1.1)))
        assert (moving.equal_seconds, moving.equal_updates) == (5.0, 1000)

    def test_systems_take_turns_and_everything_is_run_once(self):
        planned = list(turns(SCENARIO))
        assert len(set(planned)) == len(planned) == 3 * 3 * 5
        firsts = [system for _, _, system in planned[::5]]
        assert firsts == [SCENARIO.systems[turn % 5] for turn in range(9)]


class TestSearch:
    def test_the_smallest_of_those_that_are_about_as_fast(self):
        tried = [Attempt(0.1, 2.0, 0.95), Attempt(0.2, 1.2, 0.95), Attempt(0.4, 1.0, 0.96), Attempt(0.8, None, 0.5)]
        choice = choose(SYNC, tried)
        assert choice.learning_rate == 0.2
        assert not choice.at_the_edge

    def test_when_none_gets_there_the_most_accurate(self):
        choice = choose(SYNC, [Attempt(0.1, None, 0.7), Attempt(0.2, None, 0.8), Attempt(0.4, None, None)])
        assert choice.learning_rate == 0.2

    def test_the_edge_of_the_grid_is_told(self):
        assert choose(SYNC, [Attempt(0.1, 1.0, 0.9), Attempt(0.2, 3.0, 0.9)]).at_the_edge

    @pytest.mark.parametrize(
        ("seconds", "beyond"), [((3.0, 2.0, 1.0), 0.8), ((1.0, 2.0, 3.0), 0.05), ((2.0, 1.0, 2.0), None)]
    )
    def test_the_search_goes_on_beyond_the_edge(self, seconds, beyond):
        choice = choose(SYNC, [Attempt(rate, one, 0.9) for rate, one in zip((0.1, 0.2, 0.4), seconds, strict=True)])
        assert choice.beyond == beyond
        assert choice.of(0.2).seconds_to_target == seconds[1]
        assert choice.of(0.3) is None

    def test_what_makes_the_same_steps_shares_a_rate(self):
        assert families([SYNC, ASYNC, DDP]) == [[SYNC, DDP], [ASYNC]]
        assert families([ASYNC]) == [[ASYNC]]
        sync = [Attempt(0.1, 2.0, 0.9), Attempt(0.2, 1.0, 0.8), Attempt(0.4, 1.0, 0.9)]
        ddp = [Attempt(0.1, 4.0, 0.9), Attempt(0.2, 2.0, 0.9), Attempt(0.4, None, 0.7)]
        together = pooled([sync, ddp])
        assert together[:2] == [Attempt(0.1, 3.0, 0.9), Attempt(0.2, 1.5, pytest.approx(0.85))]
        assert together[2].seconds_to_target is None

    def test_a_grid_of_two_is_all_edges(self):
        assert choose(SYNC, [Attempt(0.1, 1.0, 0.9), Attempt(0.2, 3.0, 0.9)]).beyond is None


class TestDdpLogs:
    def test_lines_that_are_not_complete_are_left_alone(self, tmp_path):
        (tmp_path / "0.steps").write_text("10.5 0.5 0.25 0.125\n11.0 0.5 0.25 0.0625\n11.5 0.5 0.2")
        assert ddp.read_steps(tmp_path, 0) == [Step(10.5, 0.5, 0.125), Step(11.0, 0.5, 0.0625)]
        assert ddp.read_steps(tmp_path, 1) == []

    def test_waiting_is_what_the_last_to_come_does_not_have(self):
        fast = [Step(1.0, 1.0, 0.6), Step(2.0, 1.0, 0.1)]
        slow = [Step(1.0, 1.0, 0.1), Step(2.0, 1.0, 0.2), Step(3.0, 1.0, 0.2)]
        assert waiting_shares([fast, slow], 2.0) == pytest.approx({"w0": 0.25, "w1": 0.05})
