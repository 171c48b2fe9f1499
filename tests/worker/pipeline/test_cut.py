"""The cut is the best there is."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.worker.pipeline.cut import balanced, check, parts, read, sums


def every(layers, stages):
    for ends in combinations(range(1, layers), stages - 1):
        edges = (0, *ends, layers)
        yield tuple(end - begin for begin, end in pairwise(edges))


def largest(cut, cost):
    return max(cost(stage, *bounds) for stage, bounds in enumerate(parts(cut)))


@st.composite
def rows(draw):
    layers = draw(st.integers(1, 9))
    stages = draw(st.integers(1, layers))
    row = st.lists(st.floats(0, 100), min_size=layers, max_size=layers)
    return draw(st.lists(row, min_size=stages, max_size=stages))


@given(rows())
def test_no_cut_has_a_smaller_largest_part(costs):
    layers, stages = len(costs[0]), len(costs)
    cost = sums(costs)
    found = balanced(layers, stages, cost)
    check(found, layers, stages)
    assert largest(found, cost) == min(largest(cut, cost) for cut in every(layers, stages))


@given(st.integers(1, 8), st.integers(1, 8), st.randoms(use_true_random=False))
def test_the_same_for_costs_that_do_not_add_up(layers, stages, random):
    if stages <= layers:
        table = {(p, b, e): random.random() for p in range(stages) for b in range(layers) for e in range(layers + 1)}
        cost = lambda *of: table[of]  # noqa: E731
        found = balanced(layers, stages, cost)
        assert largest(found, cost) == min(largest(cut, cost) for cut in every(layers, stages))


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("slow", [0, 1, -1])
def test_where_one_machine_is_half_as_fast_it_is_much_better_than_an_equal_cut(stages, slow):
    costs = [[1.0] * 12 for _ in range(stages)]
    costs[slow] = [2.0] * 12
    cost = sums(costs)
    equal = (12 // stages,) * stages
    assert largest(equal, cost) >= 1.25 * largest(balanced(12, stages, cost), cost)


def test_of_cuts_that_cost_the_same_it_is_always_the_same():
    assert balanced(5, 3, sums([[0.0, 0.0, 9.0, 0.0, 0.0]] * 3)) == (3, 1, 1)


def test_parts():
    assert parts((2, 3, 1)) == [(0, 2), (2, 5), (5, 6)]


def test_a_cut_that_a_user_wrote():
    assert read("2, 3,3", 8, 3) == (2, 3, 3)
    for text, words in (
        ("2,x", "'2,x' must be time, memory, or numbers of layers such as 2,3,3"),
        ("2,-3", "or numbers"),
        ("", "or numbers"),
        ("speed", "'speed' must be time, memory, or numbers"),
        ("4,4", "is for 2 stages, and there are 3; give a number for each"),
        ("4,4,0", "has a stage without layers"),
        ("2,3,4", "has 9 layers, and the model 8; let the numbers add up"),
    ):
        with pytest.raises(ValueError, match=words):
            read(text, 8, 3)


def test_more_stages_than_layers():
    with pytest.raises(ValueError, match="4 stages, and the model has 3 layers; use at most 3 stages, or name smaller"):
        balanced(3, 4, sums([[1.0] * 3] * 4))
    with pytest.raises(ValueError, match="0 stages; there must be at least 1"):
        balanced(3, 0, sums([]))
