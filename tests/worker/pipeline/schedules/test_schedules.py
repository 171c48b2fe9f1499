"""Every schedule is complete, in order, free of deadlock, and keeps as much as it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.worker.pipeline.schedules import SCHEDULES, schedule
from leeway.worker.pipeline.schedules.efficiency import best, bound, makespan
from leeway.worker.pipeline.schedules.schedule import Act, backward, forward, weights

SIZES = [(stages, count) for stages in range(1, 7) for count in range(1, 13)]
# How many messages a link of one direction between two stages holds, at least.
CAPACITY = 1


@pytest.fixture(params=SCHEDULES.values(), ids=SCHEDULES)
def each(request):
    return request.param


def test_complete_and_in_order(each):
    for stages, count in SIZES:
        for stage in range(stages):
            actions = each.actions(stage, stages, count)
            wanted = [*map(forward, range(count)), *map(backward, range(count))]
            if each.splits:
                wanted += map(weights, range(count))
            assert sorted(actions, key=str) == sorted(wanted, key=str)
            for act in Act:
                numbers = [action.micro_batch for action in actions if action.act is act]
                assert numbers == sorted(numbers)
            for number in range(count):
                places = [actions.index(of(number)) for of in (forward, backward, weights) if of(number) in actions]
                assert places == sorted(places)


def test_activations_are_kept_for_as_many_as_it_says(each):
    last = Act.WEIGHTS if each.splits else Act.BACKWARD
    for stages, count in SIZES:
        for stage in range(stages):
            held = most = 0
            for action in each.actions(stage, stages, count):
                held += (action.act is Act.FORWARD) - (action.act is last)
                most = max(most, held)
            assert most == each.held(stage, stages, count)


def test_how_many_are_kept():
    gpipe, alternating, halved = SCHEDULES["gpipe"], SCHEDULES["1f1b"], SCHEDULES["zb-h1"]
    for stages, count in SIZES:
        for stage in range(stages):
            assert gpipe.held(stage, stages, count) == count
            assert alternating.held(stage, stages, count) == min(count, stages - stage)
            assert halved.held(stage, stages, count) == min(count, stages)


class Links:
    """What is under way between neighbours, by (from, to); a stage that sends into a full one stands still."""

    def __init__(self):
        self.under_way = {}

    def put(self, sender, receiver, action):
        queue = self.under_way.setdefault((sender, receiver), [])
        if len(queue) == CAPACITY:
            return False
        queue.append(action)
        return True

    def take(self, sender, receiver, action):
        queue = self.under_way.get((sender, receiver), [])
        if not queue:
            return False
        assert queue.pop(0) == action
        return True


def test_no_deadlock_where_one_message_is_in_flight(each):
    for stages, count in SIZES:
        links = Links()
        left = [list(each.actions(stage, stages, count)) for stage in range(stages)]
        unsent = [None] * stages
        while any(left) or any(unsent):
            moved = False
            for stage in range(stages):
                if unsent[stage] is None and left[stage]:
                    action = left[stage][0]
                    step = {Act.FORWARD: 1, Act.BACKWARD: -1, Act.WEIGHTS: 0}[action.act]
                    before, behind = stage - step, stage + step
                    if step and 0 <= before < stages and not links.take(before, stage, action):
                        continue
                    left[stage].pop(0)
                    moved = True
                    if step and 0 <= behind < stages:
                        unsent[stage] = (behind, action)
                if unsent[stage] is not None and links.put(stage, *unsent[stage]):
                    unsent[stage] = None
                    moved = True
            assert moved, (each.name, stages, count)
        assert not any(links.under_way.values())


def test_the_order_of_one_forward_one_backward():
    actions = SCHEDULES["1f1b"].actions(1, 3, 4)
    assert " ".join(map(str, actions)) == "F0 F1 B0 F2 B1 F3 B2 B3"


def test_the_order_of_zb_h1():
    orders = [" ".join(map(str, SCHEDULES["zb-h1"].actions(stage, 2, 3))) for stage in range(2)]
    assert orders == ["F0 F1 B0 W0 F2 B1 W1 B2 W2", "F0 B0 F1 B1 W0 F2 B2 W1 W2"]


def test_the_bubble_of_zb_h1_is_a_third():
    """Table 2 of the paper: (P - 1)(F + B - W), where there are enough micro-batches."""
    for stages in range(1, 7):
        for count in range(2 * stages, 13):
            whole = makespan(SCHEDULES["1f1b"], [1.0] * stages, [2.0] * stages, count)
            halved = makespan(SCHEDULES["zb-h1"], [1.0] * stages, [2.0] * stages, count)
            assert (whole, halved) == (3 * count + 3 * (stages - 1), 3 * count + stages - 1)


def test_the_order_of_gpipe():
    assert " ".join(map(str, SCHEDULES["gpipe"].actions(0, 2, 2))) == "F0 F1 B0 B1"


def test_the_bubble_of_equal_stages():
    for stages, count in SIZES:
        for name in ("gpipe", "1f1b"):
            reached = best(SCHEDULES[name], [1.0] * stages, [2.0] * stages, count)
            assert reached == pytest.approx(1 - (stages - 1) / (count + stages - 1))
            assert reached == pytest.approx(bound([3.0] * stages, count))


SECONDS = st.lists(st.floats(0.01, 10), min_size=1, max_size=6)


@given(SECONDS, st.integers(1, 12), st.floats(0.5, 3))
def test_the_best_is_what_the_slowest_stage_and_the_way_there_and_back_allow(seconds, count, ratio):
    back = [ratio * one for one in seconds]
    stages = len(seconds)
    for each in SCHEDULES.values():
        longest = max(count * (f + b) for f, b in zip(seconds, back, strict=True))
        assert makespan(each, seconds, back, count) >= max(longest, sum(seconds) + max(back) / 2) * (1 - 1e-9)
        assert 1 / stages * (1 - 1e-9) <= best(each, seconds, back, count) <= 1 + 1e-9


@given(SECONDS, st.integers(1, 12))
def test_the_closed_form_is_that_of_gpipe(seconds, count):
    """All forwards take (M - 1) max + sum, and so do all backwards."""
    found = makespan(SCHEDULES["gpipe"], seconds, seconds, count)
    assert found == pytest.approx(2 * ((count - 1) * max(seconds) + sum(seconds)))
    assert best(SCHEDULES["gpipe"], seconds, seconds, count) == pytest.approx(
        bound([2 * one for one in seconds], count)
    )


def test_of_unequal_stages_the_order_may_hide_more_than_the_closed_form():
    """The quick stage behind works while the slow one does its next forward."""
    assert makespan(SCHEDULES["1f1b"], [1, 0.5], [1, 0.5], 4) == 8
    assert best(SCHEDULES["1f1b"], [1, 0.5], [1, 0.5], 4) > bound([2, 1], 4)


def test_by_name():
    assert schedule("1f1b").name == "1f1b"
    with pytest.raises(ValueError, match="no schedule 'zig-zag'; choose one of gpipe, 1f1b, zb-h1"):
        schedule("zig-zag")
