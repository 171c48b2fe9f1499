from __future__ import annotations

import json

import pytest

from tests.demo import timeline
from tests.demo.timeline import Iteration, Life, Wait


def test_the_start_is_when_the_last_worker_is_through_the_barrier(ssp_rows):
    happened = timeline.follow(ssp_rows)
    assert (happened.start, happened.end, happened.seconds) == (10.0, 20.0, 10.0)


def test_without_a_barrier_the_start_is_when_the_last_worker_has_its_first_parameters(sync_rows):
    assert timeline.follow(sync_rows).start == 2.0


def test_an_iteration_is_computed_from_the_grant_to_the_push(ssp_rows):
    happened = timeline.follow(ssp_rows)
    assert [(one.clock, one.begin, one.end, one.lag) for one in happened.iterations["w0"]] == [
        (0, 10.0, 11.0, 0),  # the run begins when w1 has joined too
        (1, 11.0, 12.0, 1),
        (2, 15.0, 16.0, 1),
    ]
    assert happened.iterations["w1"][0] == Iteration(clock=0, begin=10.0, end=15.0, lag=0, index=1, count=2)


def test_a_pull_that_is_put_off_is_a_wait_until_its_answer(ssp_rows):
    happened = timeline.follow(ssp_rows)
    assert happened.waits["w0"][:2] == [Wait(5.0, 10.0), Wait(12.0, 15.0)]
    assert happened.waits["w1"] == []


def test_waiting_counts_from_the_start_to_each_workers_last_push(ssp_rows, sync_rows):
    # w0 waits 3 s of the 6 from 10 to 16, w1 never in the 10 to 20.
    assert timeline.follow(ssp_rows).waiting_share == pytest.approx(3 / 16)
    # w0 waits 3 s of the 5 to its last push at 7; what it waits after that is not for any iteration.
    assert timeline.follow(sync_rows).waiting_share == pytest.approx(3 / (5 + 8))


def test_staleness_and_lag_are_what_the_server_said(ssp_rows, sync_rows):
    happened = timeline.follow(ssp_rows)
    # w1's first update was computed from version 1 and made version 4, its last from 4 made 6.
    assert happened.staleness == [0, 0, 2, 0, 1]
    assert happened.mean_staleness == pytest.approx(3 / 5)
    assert happened.largest_lag == 1
    assert timeline.follow(sync_rows).largest_lag == 0
    assert timeline.follow(sync_rows).mean_staleness == 0.0


def test_on_arrival_every_update_is_a_step_and_under_sync_every_round(ssp_rows, sync_rows):
    on_arrival, in_rounds = timeline.follow(ssp_rows), timeline.follow(sync_rows)
    assert (on_arrival.steps, on_arrival.worker_steps) == (5, 5)
    assert (in_rounds.steps, in_rounds.worker_steps) == (2, 4)
    assert in_rounds.published == {1: 1.0, 2: 6.0, 3: 10.0}


def test_a_run_in_which_nothing_happened_has_no_figures_to_stumble_over():
    happened = timeline.follow([{"is": "Started", "epoch": 1}])
    assert (happened.seconds, happened.waiting_share, happened.largest_lag, happened.mean_staleness) == (0, 0, 0, 0)


def test_a_history_is_read_from_its_file(tmp_path, ssp_rows):
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ssp_rows))
    assert timeline.read(path) == timeline.follow(ssp_rows)


def test_a_life_is_from_its_begin_to_its_end_and_a_worker_can_have_several():
    rows = [
        {"t": 1.0, "event": {"is": "Tick"}, "effects": [{"is": "Began", "rank": "w0", "incarnation": 1}]},
        {"t": 5.0, "event": {"is": "Tick"}, "effects": [{"is": "Ended", "rank": "w0", "reason": "lease-expired"}]},
        {"t": 9.0, "event": {"is": "Tick"}, "effects": [{"is": "Began", "rank": "w0", "incarnation": 2}]},
    ]
    assert timeline.follow(rows).lives == {"w0": [Life(1.0, 5.0, "lease-expired"), Life(9.0)]}
