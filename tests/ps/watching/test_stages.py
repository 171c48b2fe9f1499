import pytest

from leeway.protocol.times import StepTimes
from leeway.ps.watching.stages import StageTimes


def told(*waited, rank="r0"):
    times = StageTimes()
    for stage, seconds in enumerate(waited):
        times.tell(rank, stage, StepTimes(4, compute_seconds=0.5, bubble_seconds=seconds))
    return times


def test_seconds_are_those_of_the_newest_iteration():
    times = told(0.25, 0.5)
    times.tell("r0", 1, StepTimes(5, compute_seconds=0.75, bubble_seconds=0.125))
    assert times.of("r0", 1) == {"computed_seconds": 0.75, "waited_seconds": 0.125}
    assert times.of("r0", 0) == {"computed_seconds": 0.5, "waited_seconds": 0.25}


def test_nothing_is_known_before_the_first_and_of_another_life():
    nothing = {"computed_seconds": None, "waited_seconds": None}
    times = told(0.25, 0.5)
    assert times.of("r1", 0) == times.of("r0", 2) == nothing
    times.forget("r0")
    assert times.of("r0", 0) == nothing
    assert times.holding("r0", 2, (9, 9), 10) is None
    times.forget("r0")


@pytest.mark.parametrize(
    ("waited", "holding"),
    [
        ((0.6, 0.1, 0.6), 1),
        ((0.0, 0.4), 0),
        ((0.4, 0.39), None),
        ((0.3, 0.2, 0.25, 0.3), None),
        ((0.0, 0.0), None),
        ((0.5,), None),
    ],
)
def test_the_stage_that_waits_least_holds_the_others_if_it_stands_out(waited, holding):
    assert told(*waited).holding("r0", len(waited), [7] * len(waited), 10) == holding


def test_before_all_have_told_nobody_is_named():
    assert told(0.0, 0.5).holding("r0", 3, (10, 10, 10), 10) is None


def test_whoever_says_nothing_any_more_holds_the_others():
    times = told(0.0, 0.4)
    assert times.holding("r0", 2, (10, 6.7), 10) == 0
    assert times.holding("r0", 2, (10, 4.9), 10) == 1
    assert StageTimes().holding("r0", 3, (4.9, 4.8, 10), 10) == 1
