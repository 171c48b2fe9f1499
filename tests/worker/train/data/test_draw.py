import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.worker.train.data import draw


@given(st.integers(1, 300), st.integers(0, 2**70), st.lists(st.integers(0, 2**64 - 1), max_size=3))
def test_a_permutation_has_every_sample_once(samples, seed, key):
    order = draw.without_replacement(samples, seed, *key)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(samples))


def test_draws_are_the_same_everywhere_and_for_ever():
    # These figures may never change: workers on other machines cut the same permutation.
    assert draw.without_replacement(10, 42, 0, 7).tolist() == [7, 2, 9, 1, 3, 0, 6, 8, 4, 5]
    assert draw.with_replacement(10, 8, 42, 1).tolist() == [6, 7, 4, 9, 9, 0, 8, 3]
    assert draw.key_of("w0") == 8511863639736380018


@pytest.mark.parametrize("other", [(2, 0, 7), (1, 1, 7), (1, 0, 8), (1, 0), (1, 0, 7, 0)])
def test_another_seed_or_key_draws_otherwise(other):
    assert draw.without_replacement(100, 1, 0, 7).tolist() != draw.without_replacement(100, *other).tolist()


def test_all_orders_of_three_are_about_equally_likely():
    orders = [tuple(draw.without_replacement(3, 0, key).tolist()) for key in range(6_000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    # Binomial(6000, 1/6) has a deviation of 29.
    assert max(abs(count - 1_000) for count in counts) < 4 * 29


def test_choices_cover_the_range_evenly_and_repeat():
    counts = np.bincount(draw.with_replacement(100, 100_000, 3), minlength=100)
    assert len(counts) == 100
    # Binomial(100000, 1/100) has a deviation of 31.5.
    assert np.abs(counts - 1_000).max() < 5 * 31.5
    assert len(np.unique(draw.with_replacement(1_000, 1_000, 3))) == pytest.approx(632, abs=40)


def test_uniform_numbers_fill_the_open_interval_evenly():
    numbers = draw.uniform(100_000, 3)
    assert 0 < numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    counts = np.bincount((numbers * 100).astype(int), minlength=100)
    assert np.abs(counts - 1_000).max() < 5 * 31.5
