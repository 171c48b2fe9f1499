import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.protocol.spans import Layout
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.arithmetic.buffers import aggregate, arrive
from leeway.ps.arithmetic.runs import Chart
from leeway.ps.arithmetic.updates import Contribution

FEATURES = 5


def statistics(mean=0.0, variance=1.0, count=0):
    return {
        "bn.running_mean": torch.full((FEATURES,), mean),
        "bn.running_var": torch.full((FEATURES,), variance),
        "bn.num_batches_tracked": torch.tensor(count),
    }


@pytest.fixture(scope="session")
def take_in(frame):
    """Take updates' buffers into current values; the new values by name."""

    def run(current, updates, live_workers=None):
        whole = frame(current)
        layout = Layout.of(whole.specs)
        chart, body = Chart(layout), Body(whole.body)
        contributions = [
            Contribution(samples, chart.runs([frame(part) for part in parts])) for samples, *parts in updates
        ]
        if live_workers is None:
            aggregate(contributions, body)
        else:
            arrive(contributions[0].runs, live_workers, body)
        return {name: body.tensor(place).clone() for name, place in layout.places.items()}

    return run


def test_the_mean_is_weighted_by_samples(take_in):
    new = take_in(statistics(), [(1, statistics(mean=4.0)), (3, statistics(mean=8.0))])
    assert torch.equal(new["bn.running_mean"], torch.full((FEATURES,), 7.0))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.integers(0, 2**31), st.floats(0, 1000))
def test_the_variance_is_that_of_the_joined_samples(take_in, sizes, seed, shift):
    torch.manual_seed(seed)
    batches = [torch.randn(size, FEATURES, dtype=torch.float64) + shift * torch.randn(1).double() for size in sizes]
    updates = [
        (
            len(batch),
            {
                "bn.running_mean": batch.mean(0).float(),
                "bn.running_var": batch.var(0, unbiased=False).float(),
                "bn.num_batches_tracked": torch.tensor(1),
            },
        )
        for batch in batches
    ]
    new, joined = take_in(statistics(), updates), torch.cat(batches)
    torch.testing.assert_close(new["bn.running_mean"].double(), joined.mean(0), rtol=1e-5, atol=1e-4)
    # The means came in float32: their rounding shows when they are large.
    torch.testing.assert_close(
        new["bn.running_var"].double(), joined.var(0, unbiased=False), rtol=1e-4, atol=1e-6 * (1 + shift**2)
    )
    assert (new["bn.running_var"] >= 0).all()


def test_a_large_common_mean_does_not_cancel_the_variance(take_in):
    new = take_in(statistics(), [(1, statistics(1e6, 1e-3)), (1, statistics(1e6, 3e-3))])
    torch.testing.assert_close(new["bn.running_var"], torch.full((FEATURES,), 2e-3))


def test_pairs_are_found_when_mean_and_variance_come_in_different_parts(take_in):
    def parts(mean):
        sent = statistics(mean)
        return [{"bn.running_mean": sent["bn.running_mean"]}, {"bn.running_var": sent["bn.running_var"]}]

    new = take_in(statistics(), [(1, *parts(-2.0)), (1, *parts(2.0))])
    assert torch.equal(new["bn.running_var"], torch.full((FEATURES,), 5.0))


def test_a_variance_without_its_mean_is_averaged_as_it_is(take_in):
    both, alone = statistics(-2.0, 1.0), {"bn.running_var": torch.full((FEATURES,), 3.0)}
    new = take_in(statistics(), [(1, both), (1, alone)])
    assert torch.equal(new["bn.running_var"], torch.full((FEATURES,), 2.0))
    assert torch.equal(new["bn.running_mean"], both["bn.running_mean"])


def test_an_absent_value_is_not_a_zero_and_takes_no_weight(take_in):
    current = statistics() | {"other.running_mean": torch.ones(2)}
    new = take_in(current, [(1, statistics(mean=6.0)), (9, {"other.running_mean": torch.full((2,), 3.0)}), (5, {})])
    assert torch.equal(new["bn.running_mean"], torch.full((FEATURES,), 6.0))
    assert torch.equal(new["other.running_mean"], torch.full((2,), 3.0))


def test_what_nobody_sent_keeps_its_value(take_in):
    current = statistics(3.0, 4.0, 5)
    for live_workers in (None, 2):
        new = take_in(current, [(1, {})], live_workers)
        assert all(torch.equal(new[name], current[name]) for name in current)


def test_counts_of_batches_take_the_maximum(take_in):
    updates = [(1, statistics(count=7)), (99, statistics(count=5))]
    assert take_in(statistics(count=6), updates)["bn.num_batches_tracked"] == 7
    assert take_in(statistics(count=6), updates[1:], 4)["bn.num_batches_tracked"] == 6
    assert take_in(statistics(count=6), updates[:1], 4)["bn.num_batches_tracked"] == 7


def test_on_arrival_a_value_moves_by_the_workers_share(take_in):
    new = take_in(statistics(mean=1.0, variance=2.0), [(8, statistics(mean=5.0, variance=4.0))], 4)
    assert torch.equal(new["bn.running_mean"], torch.full((FEATURES,), 2.0))
    assert torch.equal(new["bn.running_var"], torch.full((FEATURES,), 2.5))


@pytest.mark.parametrize("live_workers", [0, 1])
def test_a_single_workers_values_are_taken_exactly(take_in, live_workers):
    sent = statistics(0.1, 0.3, 2)
    new = take_in(statistics(1 / 3, 1e9), [(1, sent)], live_workers)
    assert all(torch.equal(new[name], sent[name]) for name in sent)


INTEGERS = {
    "queue_ptr": (torch.tensor(6), torch.tensor(0), torch.tensor(2)),
    "warmed_up": (torch.tensor(True), torch.tensor(False), torch.tensor(True)),
    "bn.num_batches_tracked.copy": (torch.tensor(9), torch.tensor(3), torch.tensor(5)),
    "table": tuple(torch.tensor([9, -1, value], dtype=torch.int16) for value in (9, -9, 3)),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_other_integers_and_flags_are_replaced(take_in, name):
    current, first, second = INTEGERS[name]
    for live_workers in (1, 4):
        assert torch.equal(take_in({name: current}, [(1, {name: first})], live_workers)[name], first)
    assert torch.equal(take_in({name: current}, [(1, {name: first})])[name], first)
    assert torch.equal(take_in({name: current}, [(1, {}), (1, {name: first}), (99, {name: second})])[name], first)


def test_counts_and_flags_in_one_span(take_in):
    def values(count, pointer):
        return {"num_batches_tracked": torch.tensor(count), "p": torch.tensor(pointer), "z": torch.tensor([pointer])}

    new = take_in(values(5, 6), [(1, values(7, 0)), (1, values(9, 3))])
    assert [new[name].item() for name in ("num_batches_tracked", "p", "z")] == [9, 0, 0]
    new = take_in(values(5, 6), [(1, values(3, 0))], 2)
    assert [new[name].item() for name in ("num_batches_tracked", "p", "z")] == [5, 0, 0]


INF, NAN = float("inf"), float("nan")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def buffer(values, dtype):
    return {"x.running_mean": torch.tensor(values).to(dtype)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("live_workers", [1, 3, 8])
def test_on_arrival_what_is_not_finite_gives_way_to_the_workers_value(take_in, dtype, live_workers):
    current = [-INF, INF, NAN, 1.0, 2.0, 3.0, -INF, 1.0]
    sent = [-INF, 4.0, 5.0, INF, -INF, NAN, INF, 1.0]
    new = take_in(buffer(current, dtype), [(1, buffer(sent, dtype))], live_workers)["x.running_mean"]
    torch.testing.assert_close(new, torch.tensor(sent).to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rounds_mean_is_that_of_the_finite(take_in, dtype):
    sent = [
        [-INF, INF, NAN, INF, 0.1, NAN, 1.0],
        [-INF, 4.0, 5.0, -INF, 0.1, INF, 2.0],
        [-INF, 8.0, INF, NAN, 0.1, -INF, 4.0],
    ]
    updates = [(samples, buffer(values, dtype)) for samples, values in zip((1, 1, 3), sent, strict=True)]
    new = take_in(buffer([0.0] * 7, dtype), updates)["x.running_mean"]
    expected = torch.tensor([-INF, 7.0, 5.0, INF, 0.1, NAN, 3.0]).to(dtype)
    torch.testing.assert_close(new, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("live_workers", [None, 1, 3])
def test_equal_bits_stay(take_in, dtype, live_workers):
    largest = torch.finfo(dtype).max
    values = torch.tensor([-0.0, 0.1, 1 / 3, largest, -largest, INF, -INF, NAN]).to(dtype)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    updates = [(samples, {"mask": values}) for samples in (3, 1, 7)]
    new = take_in({"mask": values}, updates, live_workers)
    assert torch.equal(new["mask"].view(bits), values.view(bits))


def test_a_running_variance_is_joined_over_those_who_have_both_finite(take_in):
    def statistics_of(means, variances):
        return {"bn.running_mean": torch.tensor(means), "bn.running_var": torch.tensor(variances)}

    sent = [
        (1, statistics_of([0.0, INF, 0.0, NAN, 5.0], [1.0, 9.0, INF, 2.0, 0.1])),
        (1, statistics_of([4.0, 4.0, 4.0, NAN, 5.0], [3.0, 3.0, 3.0, 6.0, 0.1])),
        (2, statistics_of([2.0, 2.0, 2.0, INF, 5.0], [2.0, 3.0, 3.0, INF, 0.1])),
    ]
    new = take_in(statistics_of([9.0] * 5, [9.0] * 5), sent)
    assert new["bn.running_mean"].tolist()[:3] == [2.0, pytest.approx(8 / 3), 2.0]
    spread = (1 * (4 - 8 / 3) ** 2 + 2 * (2 - 8 / 3) ** 2) / 3
    expected = [2.0 + 2.0, 3.0 + spread, 3.0 + spread, 4.0, 0.1]
    torch.testing.assert_close(new["bn.running_var"], torch.tensor(expected))
    assert new["bn.running_mean"][3].isnan(), "of none finite the first"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_spread_beyond_half_precision_is_no_infinity(take_in, dtype):
    def far(mean):
        return {"bn.running_mean": torch.tensor([mean]).to(dtype), "bn.running_var": torch.tensor([1.0]).to(dtype)}

    size = torch.finfo(dtype).max / 2
    new = take_in(far(0.0), [(1, far(size)), (1, far(-size))])
    assert new["bn.running_mean"] == 0
    assert new["bn.running_var"].isfinite().all()


def test_who_has_no_weight_is_in_no_mean(take_in):
    updates = [(0, statistics(mean=100.0)), (1, statistics(mean=1.0)), (1, statistics(mean=3.0))]
    new = take_in(statistics(), updates)
    assert torch.equal(new["bn.running_mean"], torch.full((FEATURES,), 2.0))
    assert torch.equal(new["bn.running_var"], torch.full((FEATURES,), 2.0))


def test_half_precision_and_flags(take_in):
    current = {"m.running_mean": torch.zeros(3).half(), "f": torch.tensor([True, False, False])}
    sent = {"m.running_mean": torch.ones(3).half(), "f": torch.tensor([False, True, False])}
    new = take_in(current, [(1, current), (1, sent)])
    assert torch.equal(new["m.running_mean"], torch.full((3,), 0.5).half())
    assert new["f"].tolist() == [True, False, False]
