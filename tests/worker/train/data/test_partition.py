import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.worker.train.data.partition import RandomSampling, ShuffleAndSplit

SAMPLES = st.integers(1, 200)
BATCH_SIZES = st.integers(1, 40)
COUNTS = st.integers(1, 9)
SEEDS = st.integers(0, 2**64)


def epoch_of(partition, epoch, count):
    """Every worker's batches of one epoch: batches[index][position]."""
    length = partition.iterations_per_epoch(count)
    return [
        [partition.batch(epoch * length + position, index, count) for position in range(length)]
        for index in range(count)
    ]


class TestShuffleAndSplit:
    @given(SAMPLES, BATCH_SIZES, COUNTS, SEEDS, st.integers(0, 50))
    def test_every_sample_is_read_once_an_epoch(self, samples, batch_size, count, seed, epoch):
        batches = epoch_of(ShuffleAndSplit(samples, batch_size, seed), epoch, count)
        read = np.concatenate([batch for of_worker in batches for batch in of_worker])
        assert read.dtype == np.int64
        assert sorted(read) == list(range(samples))

    @given(SAMPLES, BATCH_SIZES, COUNTS, SEEDS)
    def test_shares_are_balanced_and_only_the_last_batch_is_short(self, samples, batch_size, count, seed):
        batches = epoch_of(ShuffleAndSplit(samples, batch_size, seed), 0, count)
        shares = [sum(map(len, of_worker)) for of_worker in batches]
        assert max(shares) - min(shares) <= 1
        assert len(batches[0]) == math.ceil(max(shares) / batch_size)
        for of_worker in batches:
            assert all(len(batch) == batch_size for batch in of_worker[:-1])
            assert len(of_worker[-1]) <= batch_size

    @given(SAMPLES, BATCH_SIZES, COUNTS, SEEDS, st.data())
    def test_a_batch_does_not_depend_on_the_calls_before(self, samples, batch_size, count, seed, data):
        used = ShuffleAndSplit(samples, batch_size, seed)
        place = st.integers(1, 9).flatmap(lambda n: st.tuples(st.integers(0, 99), st.integers(0, n - 1), st.just(n)))
        for call in data.draw(st.lists(place, max_size=12)):
            fresh = ShuffleAndSplit(samples, batch_size, seed)
            np.testing.assert_array_equal(used.batch(*call), fresh.batch(*call))

    @given(SAMPLES, BATCH_SIZES, SEEDS, st.lists(COUNTS, min_size=2, max_size=4), st.integers(0, 30))
    def test_a_change_of_membership_cuts_anew_at_once(self, samples, batch_size, seed, counts, iteration):
        partition = ShuffleAndSplit(samples, batch_size, seed)
        for count in counts:
            dealt = np.concatenate([partition.batch(iteration, index, count) for index in range(count)])
            assert len(set(dealt.tolist())) == len(dealt), "no sample goes to two live workers"
            assert len(dealt) <= count * batch_size
            # The epoch after the change is whole again.
            epoch = iteration // partition.iterations_per_epoch(count) + 1
            read = np.concatenate([b for of_worker in epoch_of(partition, epoch, count) for b in of_worker])
            assert sorted(read) == list(range(samples))

    def test_epochs_and_seeds_are_in_different_orders(self):
        partition = ShuffleAndSplit(1_000, 1_000, seed=5)
        orders = [partition.batch(epoch, 0, 1).tolist() for epoch in range(3)]
        orders.append(ShuffleAndSplit(1_000, 1_000, seed=6).batch(0, 0, 1).tolist())
        assert len({tuple(order) for order in orders}) == 4
        assert list(range(1_000)) not in orders

    def test_with_more_workers_than_samples_some_read_nothing(self):
        partition = ShuffleAndSplit(3, 10, seed=0)
        sizes = [len(partition.batch(7, index, 5)) for index in range(5)]
        assert sizes == [1, 1, 1, 0, 0]

    def test_workers_agree_on_the_permutation_without_talking(self):
        batches = [ShuffleAndSplit(100, 5, seed=9).batch(3, index, 4) for index in range(4)]
        assert len(set(np.concatenate(batches).tolist())) == 20

    def test_a_batch_is_the_callers_to_keep(self):
        partition = ShuffleAndSplit(10, 5, seed=0)
        first = partition.batch(0, 0, 1)
        expected = first.copy()
        first[:] = -1
        np.testing.assert_array_equal(partition.batch(0, 0, 1), expected)


class TestRandomSampling:
    @given(SAMPLES, BATCH_SIZES, SEEDS, st.text(max_size=5), st.floats(0.01, 3), st.integers(0, 20))
    def test_a_pass_reads_the_whole_pool(self, samples, batch_size, seed, rank, weight, number):
        partition = RandomSampling(samples, batch_size, seed, rank, weight)
        assert len(partition.pool) == max(1, round(weight * samples))
        length = math.ceil(len(partition.pool) / batch_size)
        batches = [partition.batch(number * length + position, 0, 1) for position in range(length)]
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert 1 <= len(batches[-1]) <= batch_size
        assert sorted(np.concatenate(batches)) == sorted(partition.pool)
        assert 0 <= partition.pool.min() <= partition.pool.max() < samples

    @given(SAMPLES, BATCH_SIZES, SEEDS, st.lists(st.integers(0, 99), max_size=12))
    def test_a_batch_does_not_depend_on_the_calls_before(self, samples, batch_size, seed, iterations):
        used = RandomSampling(samples, batch_size, seed, "w0", 0.7)
        for iteration in iterations:
            fresh = RandomSampling(samples, batch_size, seed, "w0", 0.7)
            np.testing.assert_array_equal(used.batch(iteration, 0, 1), fresh.batch(iteration, 0, 1))

    def test_membership_does_not_matter(self):
        partition = RandomSampling(100, 10, 0, "w0")
        np.testing.assert_array_equal(partition.batch(3, 0, 1), partition.batch(3, 4, 9))

    def test_ranks_and_seeds_have_different_pools(self):
        pools = [RandomSampling(100, 10, seed, rank).pool for seed in (0, 1) for rank in ("w0", "w1")]
        assert len({tuple(pool.tolist()) for pool in pools}) == 4

    def test_passes_are_in_different_orders(self):
        partition = RandomSampling(100, 100, 0, "w0")
        assert partition.batch(0, 0, 1).tolist() != partition.batch(1, 0, 1).tolist()

    def test_about_one_sample_in_e_is_in_no_pool_of_weight_one(self):
        pool = RandomSampling(10_000, 10, 0, "w0").pool
        assert len(np.unique(pool)) / 10_000 == pytest.approx(1 - math.exp(-1), abs=0.02)

    def test_a_pool_is_never_empty(self):
        assert len(RandomSampling(10, 5, 0, "w0", 1e-9).batch(0, 0, 1)) == 1

    @pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
    def test_a_bad_weight_is_refused(self, weight):
        with pytest.raises(ValueError, match=r"a worker's weight is a finite number above 0"):
            RandomSampling(10, 5, 0, "w0", weight)


MAKERS = [ShuffleAndSplit, lambda *sizes: RandomSampling(*sizes, "w0")]


@pytest.mark.parametrize("make", MAKERS)
class TestBoth:
    @pytest.mark.parametrize(
        ("sizes", "words"),
        [((0, 1, 0), "there are 0 samples"), ((1, 0, 0), "batch size is 0"), ((1, 1, -1), "seed is -1")],
    )
    def test_bad_sizes_are_refused(self, make, sizes, words):
        with pytest.raises(ValueError, match=words):
            make(*sizes)

    @pytest.mark.parametrize(
        ("place", "words"),
        [((-1, 0, 1), "iteration is -1"), ((0, 1, 1), "index is 1 among 1"), ((0, -1, 2), "index is -1")],
    )
    def test_bad_places_are_refused(self, make, place, words):
        with pytest.raises(ValueError, match=words):
            make(10, 5, 0).batch(*place)

    def test_data_are_read_evenly_in_the_long_run(self, make):
        partition = make(50, 7, 1)
        counts = np.bincount(np.concatenate([partition.batch(i, 0, 1) for i in range(8 * 30)]), minlength=50)
        assert counts.sum() == 50 * 30
        if isinstance(partition, ShuffleAndSplit):
            assert (counts == 30).all()
        else:
            np.testing.assert_array_equal(counts, 30 * np.bincount(partition.pool, minlength=50))
