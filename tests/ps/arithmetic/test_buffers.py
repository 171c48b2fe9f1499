import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.protocol.spans import Layout
from leeway.ps.arithmetic.aggregation.rule import Contribution
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.arithmetic.buffers import aggregate, arrive
from leeway.ps.arithmetic.runs import Chart

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


def test_integers_take_the_maximum(take_in):
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


def test_half_precision_and_flags(take_in):
    current = {"m.running_mean": torch.zeros(3).half(), "f": torch.tensor([True, False, False])}
    sent = {"m.running_mean": torch.ones(3).half(), "f": torch.tensor([False, True, False])}
    new = take_in(current, [(1, current), (1, sent)])
    assert torch.equal(new["m.running_mean"], torch.full((3,), 0.5).half())
    assert new["f"].tolist() == [True, True, False]
