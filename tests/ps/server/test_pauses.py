"""Pauses are found, each once; and however many there are, time goes on for the dead."""

import pytest

from leeway.ps.server.pauses import TICK_SECONDS, TOLERATED_SECONDS, Pauses

# What stands still, and what is merely slow.
SHORT, LONG = TOLERATED_SECONDS / 2, 60.0


@pytest.fixture
def pauses():
    """Of a server whose ticker had its first turn at 1000 s."""
    pauses = Pauses()
    assert pauses.look(999.0) == 0
    assert pauses.turn(1000.0) == 0
    return pauses


def test_nothing_is_found_before_the_ticker_runs():
    pauses = Pauses()
    assert [pauses.look(moment) for moment in (0.0, 50.0, 500.0)] == [0, 0, 0]


@pytest.mark.parametrize("late", [0.0, SHORT])
def test_a_loop_in_good_health_has_no_pauses(pauses, late):
    moment = 1000.0
    for _ in range(50):
        assert pauses.look(moment + late / 2) == 0
        moment += TICK_SECONDS + late
        assert pauses.turn(moment) == 0
        assert not pauses.recent


def test_a_pause_that_the_ticker_finds(pauses):
    assert pauses.turn(1000 + TICK_SECONDS + LONG) == pytest.approx(LONG)
    assert pauses.recent
    assert pauses.turn(1000 + 2 * TICK_SECONDS + LONG) == 0
    assert not pauses.recent


def test_a_pause_that_an_event_finds_is_not_found_again(pauses):
    wakes = 1000 + TICK_SECONDS + LONG
    assert pauses.look(wakes) == pytest.approx(LONG)
    assert pauses.look(wakes) == 0
    assert pauses.turn(wakes + SHORT) == 0
    assert pauses.recent


def test_a_loop_that_goes_from_event_to_event_without_a_turn_of_the_ticker(pauses):
    for milliseconds in range(0, 3000, 10):
        assert pauses.look(1000 + milliseconds / 1000) == 0
    assert pauses.turn(1003.0) == pytest.approx(3.0 - TICK_SECONDS)
    assert pauses.recent


@pytest.mark.parametrize("late", [SHORT, TOLERATED_SECONDS + 0.001, 1.0, LONG])
@pytest.mark.parametrize("events", [0, 1, 7])
def test_each_turn_counts_as_one_period_at_least(pauses, late, events):
    """So a lease is over after as many turns as it has periods, whatever the pauses."""
    now, given_back = 1000.0, 0.0
    for turn in range(1, 40):
        began = now
        for event in range(events):
            given_back += pauses.look(began + (TICK_SECONDS + late) * (event + 1) / (events + 1))
        now = began + TICK_SECONDS + late
        given_back += pauses.turn(now)
        assert now - 1000.0 - given_back >= turn * TICK_SECONDS - 1e-6
