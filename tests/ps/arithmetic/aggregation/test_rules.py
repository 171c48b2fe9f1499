"""Every rule against published numbers, and against numpy written as dumbly as can be."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from leeway.protocol.spans import Layout
from leeway.ps.arithmetic import updates as blocks
from leeway.ps.arithmetic.aggregation import geometric_median, krum
from leeway.ps.arithmetic.aggregation.registry import DEFAULT_RULE, RULES, form, rule
from leeway.ps.arithmetic.aggregation.sorting import comparators, sort_columns
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.arithmetic.runs import Chart
from leeway.ps.arithmetic.updates import BLOCK_ELEMENTS, Contribution, Updates
from tests.ps.arithmetic.computing import values_of

SHAPES = {"a": (3, 5), "b": (1, 33), "x": (3,), "y": (17,), "z": ()}
# Written so, and needing so many updates at least.
WRITTEN = {
    "mean": 1,
    "sum": 1,
    "median": 1,
    "trimmed-mean:0": 1,
    "trimmed-mean:2": 5,
    "krum:0": 3,
    "krum:1": 5,
    "krum:2": 7,
    "multi-krum:1,2": 5,
    "multi-krum:1,4": 7,
    "geometric-median": 1,
}
FIVE = [[0, 0], [1, 0], [0, 1], [1, 1], [10, 10]]
SEVEN = [[9, 7], [6, 5], [5, 9], [2, 8], [6, 0], [3, 8], [5, 0]]


@pytest.fixture(scope="session")
def aggregate(frame):
    """What a rule makes of (samples, tensors) pairs, by name. It is called twice."""

    def build(written, contributions, dtype=torch.float32, pulled=None, factors=None):
        everything = {name: torch.zeros(shape, dtype=dtype) for name, shape in SHAPES.items()}
        for _, tensors in contributions:
            everything |= {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        chart = Chart(Layout.of(frame(everything).specs))
        base = None if pulled is None else Body(frame(pulled).body)
        results = []
        # Distances are summed as the tensors lie, and their last bits with them; all else does not depend on that.
        apart = rule(written).name != "geometric-median"
        for as_given in (False, apart):
            frames = [frame(dict(reversed(t.items())) if as_given else t, as_given=as_given) for _, t in contributions]
            before = [bytes(sent.body) for sent in frames]
            scratch = values_of(chart.layout)
            sent = [
                Contribution(samples, chart.runs([one]), f"w{k}", base, (factors or {}).get(k, 1.0))
                for k, ((samples, _), one) in enumerate(zip(contributions, frames, strict=True))
            ]
            updates, state = rule(written).apply({}, Updates(sent, lambda scratch=scratch: scratch))
            assert [bytes(one.body) for one in frames] == before, "contributions are never written to"
            assert not state, "a rule without state saves nothing"
            places = [(run.span.offset_bytes, run.first) for run in updates.gradient]
            assert places == sorted(places)
            results.append({p.spec.name: t.clone() for run in updates.gradient for p, t in run.tensors()})
        assert results[0].keys() == results[1].keys()
        for name, tensor in results[0].items():
            torch.testing.assert_close(tensor, results[1][name], rtol=0, atol=0, equal_nan=True)  # the same bits
        return results[0]

    return build


def vectors(rows, dtype=torch.float32):
    return [(1, {"v": torch.tensor(row, dtype=dtype)}) for row in rows]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("mean", (2.4, 2.4)),
        ("sum", (12.0, 12.0)),
        ("median", (1.0, 1.0)),
        ("trimmed-mean:1", (2 / 3, 2 / 3)),
        ("trimmed-mean:2", (1.0, 1.0)),
        ("krum:1", (0.0, 0.0)),
        ("multi-krum:1,2", (0.5, 0.0)),
        ("geometric-median", (0.78868, 0.78868)),
    ],
)
def test_numbers_of_the_literature(aggregate, written, expected):
    found = aggregate(written, vectors(FIVE))["v"]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=5e-6)


def products(rows, centre=0):
    points = torch.tensor(rows, dtype=torch.float64) - torch.tensor(rows[centre], dtype=torch.float64)
    return points @ points.T


def squared_distances(rows):
    points = np.asarray(rows, dtype=np.float64)
    return ((points[:, None] - points[None]) ** 2).sum(-1).tolist()


@pytest.mark.parametrize(("iterations", "expected"), [(3, 0.88959), (200, 0.78868)])
@pytest.mark.parametrize("centre", range(5))
def test_the_geometric_median_goes_on_to_its_point(iterations, expected, centre):
    found = geometric_median.weights(products(FIVE, centre), [0.2] * 5, iterations)
    assert sum(found) == pytest.approx(1.0)
    assert np.asarray(found) @ np.asarray(FIVE) == pytest.approx([expected] * 2, abs=5e-6)


def test_the_geometric_median_stays_where_most_of_the_weight_is():
    assert geometric_median.weights(products([[0, 0], [5, 5], [7, 1]]), [0.6, 0.2, 0.2]) == pytest.approx(
        [1, 0, 0], abs=1e-6
    )


def test_scores_of_krum_are_of_n_minus_f_minus_2_neighbours(aggregate):
    assert krum.scores(squared_distances(FIVE), 1) == [2, 2, 2, 2, 343]
    found = krum.scores(squared_distances(SEVEN), 2)
    assert found == [70, 48, 32, 36, 84, 24, 92]
    # With n - f - 1 of them it would be the third.
    assert torch.equal(aggregate("krum:2", vectors(SEVEN))["v"], torch.tensor([3.0, 8.0]))
    assert torch.equal(aggregate("multi-krum:2,2", vectors(SEVEN))["v"], torch.tensor([4.0, 8.5]))


def oracle(written, samples, rows):
    """`rows`: each update as one long vector."""
    name, _, numbers = written.partition(":")
    given = [int(number) for number in numbers.split(",")] if numbers else []
    rows = np.asarray(rows, dtype=np.float64)
    n = len(rows)
    share = np.asarray(samples) / sum(samples)
    match name:
        case "mean":
            return share @ rows
        case "sum":
            return rows.sum(0)
        case "median":
            return np.median(rows, axis=0)
        case "trimmed-mean":
            (b,) = given
            return np.sort(rows, axis=0)[b : n - b].mean(0)
        case "krum" | "multi-krum":
            f, m = given[0], given[1] if given[1:] else 1
            score = []
            for i in range(n):
                others = sorted(((rows[i] - rows[j]) ** 2).sum() for j in range(n) if j != i)
                score.append(sum(others[: n - f - 2]))
            return rows[np.argsort(score, kind="stable")[:m]].mean(0)
        case "geometric-median":
            z = share @ rows
            for _ in range(200):
                weights = [a / max(1e-6, math.sqrt(((z - x) ** 2).sum())) for a, x in zip(share, rows, strict=True)]
                z = sum(w * x for w, x in zip(weights, rows, strict=True)) / sum(weights)
            return z
    raise AssertionError(written)


def expected_of(written, contributions, dtype=torch.float32):
    """By name; whoever lacks a tensor that another has sent has sent a zero."""
    names = [name for name in SHAPES if any(name in tensors for _, tensors in contributions)]
    zeros = {name: torch.zeros(SHAPES[name], dtype=dtype) for name in names}
    rows = [
        np.concatenate([(zeros | tensors)[name].double().numpy().ravel() for name in names] or [np.zeros(0)])
        for _, tensors in contributions
    ]
    found = oracle(written, [samples for samples, _ in contributions], rows)
    result, start = {}, 0
    for name in names:
        size = zeros[name].numel()
        result[name] = torch.tensor(found[start : start + size]).view(SHAPES[name])
        start += size
    return result


@pytest.mark.parametrize("written", WRITTEN)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_it_is_what_numpy_says_and_an_absent_tensor_is_a_zero(aggregate, written, data):
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]))
    count = WRITTEN[written] + data.draw(st.integers(0, 4))
    contributions = []
    for _ in range(count):
        names = data.draw(st.lists(st.sampled_from(list(SHAPES)), unique=True))
        sent = {name: (10 * torch.randn(SHAPES[name], dtype=torch.float64)).to(dtype) for name in names}
        contributions.append((data.draw(st.integers(1, 100)), sent))
    found, expected = aggregate(written, contributions, dtype), expected_of(written, contributions, dtype)
    assert found.keys() == expected.keys()
    assert all(one.dtype == (torch.float32 if dtype is torch.bfloat16 else dtype) for one in found.values())
    if written == "geometric-median":
        # Of two alike every point between them is one.
        assert spread(found, contributions) <= spread(expected, contributions) * (1 + 1e-6) + 1e-5
        return
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-5, atol=1e-5)


def spread(point, contributions):
    """What the geometric median has least of: the weighted mean of the distances to all updates."""
    distances = [
        sum((value.double() - one.get(name, torch.zeros(())).double()).square().sum() for name, value in point.items())
        for _, one in contributions
    ]
    samples = [samples for samples, _ in contributions]
    return sum(n * math.sqrt(square) for n, square in zip(samples, distances, strict=True)) / sum(samples)


@pytest.mark.parametrize("written", WRITTEN)
def test_blocks_are_put_together(monkeypatch, aggregate, written):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 16)
    monkeypatch.setattr(blocks, "_SMALLEST_BLOCK_ELEMENTS", 16)
    contributions = [(k + 1, {name: torch.randn(shape) for name, shape in SHAPES.items()}) for k in range(7)]
    del contributions[2][1]["y"]
    expected = expected_of(written, contributions)
    for name, tensor in aggregate(written, contributions).items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_weights_count_as_what_was_pulled_minus_them(aggregate, written, dtype):
    pulled = {name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}
    models = [(k + 1, {name: torch.randn(shape).to(dtype) for name, shape in SHAPES.items()}) for k in range(7)]
    del models[1][1]["a"], models[4][1]["a"]
    found = aggregate(written, models, dtype, pulled)
    if dtype is torch.float32:
        deltas = [(samples, {name: pulled[name] - local for name, local in one.items()}) for samples, one in models]
        for name, tensor in aggregate(written, deltas).items():
            assert torch.equal(found[name], tensor), "bit by bit what the workers would have subtracted"
    else:
        # A worker would round the difference to half precision; here it is in float32.
        wide = [(n, {name: pulled[name].double() - local.double() for name, local in one.items()}) for n, one in models]
        for name, tensor in expected_of(written, wide, torch.float64).items():
            torch.testing.assert_close(found[name].double(), tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("written", WRITTEN)
def test_an_update_that_a_stage_has_scaled_counts_as_that(aggregate, written):
    contributions = [(1, {name: torch.randn(shape) for name, shape in SHAPES.items()}) for _ in range(7)]
    factors = {0: 0.5, 3: 2.0, 6: 0.0}
    by_hand = [
        (n, {name: tensor * factors.get(k, 1.0) for name, tensor in one.items()})
        for k, (n, one) in enumerate(contributions)
    ]
    found = aggregate(written, contributions, factors=factors)
    for name, tensor in aggregate(written, by_hand).items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("written", ["median", "trimmed-mean:2", "krum:2", "multi-krum:2,3", "geometric-median"])
@pytest.mark.parametrize("bad", [1e30, -1e30, math.inf, -math.inf, math.nan])
def test_a_few_that_are_anything_at_all_do_not_move_it_far(aggregate, written, bad):
    honest = [(1, {"y": 1.0 + 0.1 * torch.randn(17)}) for _ in range(5)]
    attackers = [(1, {"y": torch.full((17,), bad)}), (1, {"y": torch.full((17,), bad * 0.5)})]
    found = aggregate(written, [*attackers, *honest])["y"]
    assert ((found - 1.0).abs() < 0.5).all(), found


@pytest.mark.parametrize("written", ["median", "geometric-median"])
def test_a_minority_of_nearly_half_is_one_too(aggregate, written):
    honest = [(1, {"y": 1.0 + 0.1 * torch.randn(17)}) for _ in range(4)]
    found = aggregate(written, [(1, {"y": torch.full((17,), 1e30)})] * 3 + honest)["y"]
    assert ((found - 1.0).abs() < 0.5).all(), found


def test_a_mean_weighs_by_samples_and_so_does_the_geometric_median(aggregate):
    heavy = [(98, {"x": torch.ones(3)}), (1, {"x": torch.zeros(3)}), (1, {"x": torch.zeros(3)})]
    assert aggregate("mean", heavy)["x"].tolist() == pytest.approx([0.98] * 3)
    assert aggregate("geometric-median", heavy)["x"].min() > 0.99
    for written in ("median", "trimmed-mean:1", "krum:0"):
        assert torch.equal(aggregate(written, heavy)["x"], torch.zeros(3))
    assert torch.equal(aggregate("sum", heavy)["x"], torch.ones(3))


def test_all_not_finite_is_not_finite(aggregate):
    contributions = [(1, {"x": torch.full((3,), math.nan)}) for _ in range(3)]
    assert aggregate("geometric-median", contributions)["x"].isnan().all()


def test_what_a_minority_alone_has_sent_stays(aggregate):
    contributions = [(1, {"x": torch.ones(3)}), (1, {"x": torch.ones(3)}), *[(1, {"y": torch.ones(17)})] * 3]
    for written, moved in (("median", "y"), ("trimmed-mean:2", "y")):
        found = aggregate(written, contributions)
        assert {name for name, tensor in found.items() if tensor.any()} == {moved}


@pytest.mark.parametrize("written", ["median", "trimmed-mean:2", "multi-krum:1,4", "geometric-median"])
def test_no_copy_of_any_update_is_made(frame, written):
    """The largest tensor that comes to be while it computes is some blocks, whatever the model has."""
    size, count = 10 * BLOCK_ELEMENTS, 7
    frames = [frame({"w": torch.randn(size, 1)}) for _ in range(count)]  # 5 MB each
    chart = Chart(Layout.of(frames[0].specs))
    scratch = values_of(chart.layout)
    updates = Updates([Contribution(1, chart.runs([one])) for one in frames], lambda: scratch)
    known = {tensor.data_ptr() for run in chart.whole(scratch.body) for tensor in (run.values,)}
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            nonlocal largest
            found = function(*arguments, **(named or {}))
            inputs = {one.untyped_storage().data_ptr() for one in arguments if isinstance(one, torch.Tensor)}
            for one in found if isinstance(found, tuple | list) else [found]:
                if isinstance(one, torch.Tensor) and one.untyped_storage().data_ptr() not in inputs | known:
                    largest = max(largest, one.numel())
            return found

    with Watch():
        rule(written).apply({}, updates)
    assert 0 < largest <= 8 * BLOCK_ELEMENTS < size


@pytest.mark.parametrize("count", range(1, 11))
def test_a_network_sorts_whatever_it_is_given(count):
    """Enough: a network that sorts all sequences of zeros and ones sorts all (Knuth, vol. 3, 5.3.4, theorem Z)."""
    columns = torch.tensor([[(bits >> k) & 1 for bits in range(2**count)] for k in range(count)]).float()
    assert torch.equal(torch.stack(sort_columns(list(columns))), columns.sort(dim=0).values)


def test_a_large_network_sorts():
    rows = torch.randn(150, 40)
    assert torch.equal(torch.stack(sort_columns(list(rows))), rows.sort(dim=0).values)
    assert len(comparators(150)) < 150 * 150 / 10


@pytest.mark.parametrize(("written", "least"), WRITTEN.items())
def test_rules_are_found_by_what_a_user_writes(written, least):
    found = rule(written)
    assert (str(found), found.least) == (written, least)
    assert found.needs_rounds is (written not in ("mean", "sum"))


def test_the_default_rule_is_the_mean():
    assert str(DEFAULT_RULE) == "mean"
    assert [form(name) for name in RULES] == [
        *("mean", "sum", "median", "trimmed-mean:B", "krum:F", "multi-krum:F,M", "geometric-median")
    ]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("krumm:1", "there is no aggregation rule 'krumm:1'; choose one of mean, sum, median, trimmed-mean:B, krum:F,"),
        ("", "there is no aggregation rule ''"),
        ("krum", "the aggregation rule 'krum' must have the form krum:F, such as krum:1"),
        ("krum:", "must have the form krum:F"),
        ("krum:1,2", "must have the form krum:F"),
        ("krum:-1", "must have the form krum:F"),
        ("krum:1.5", "must have the form krum:F"),
        ("krum: 1", "must have the form krum:F"),
        ("krum:1234567890", "must have the form krum:F"),
        ("trimmed-mean:x", "must have the form trimmed-mean:B, such as trimmed-mean:1"),
        ("multi-krum:1", "must have the form multi-krum:F,M, such as multi-krum:1,1"),
        ("multi-krum:1,0", "'multi-krum:1,0' is of the form multi-krum:F,M, and M is 0, it must be 1 or more"),
        ("mean:1", "the aggregation rule 'mean:1' must have the form mean"),
        ("median:", "must have the form median"),
    ],
)
def test_a_rule_that_is_none_is_one_line_with_its_form(written, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        rule(written)
    assert "\n" not in str(caught.value)
