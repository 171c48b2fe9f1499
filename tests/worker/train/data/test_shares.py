import math
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.errors import DataError
from leeway.worker.train.data.shares import FileShares, find, joined
from leeway.worker.train.data.source import Labelled

TOO_FEW = "--files are 2, for 3 workers: each needs one at least, so split them into more, or start fewer workers"


class Reader:
    """Files of so many lines each; `read` keeps which lines a worker holds, as (file, line)."""

    def __init__(self, sizes):
        self.lines = {Path(f"part-{number}"): size for number, size in enumerate(sizes)}
        self.held = []
        self.reads = 0

    @property
    def files(self):
        return tuple(self.lines)

    def read(self, files):
        self.reads += 1
        self.held = [(file, line) for file in files for line in range(self.lines[file])]
        return len(self.held)


def worker(sizes, batch_size=7, seed=3):
    reader = Reader(sizes)
    return reader, FileShares(reader.files, reader.read, batch_size, seed)


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=9)


@given(SIZES, st.integers(1, 9), st.integers(1, 12), st.integers(0, 4))
def test_each_line_is_read_once_an_epoch_by_one_worker(sizes, count, batch_size, epoch):
    count = min(count, len(sizes))
    seen = Counter()
    for index in range(count):
        reader, shares = worker(sizes, batch_size)
        shares.batch(0, index, count)
        length = math.ceil(len(reader.held) / batch_size)
        for position in range(length):
            batch = shares.batch(epoch * length + position, index, count)
            assert 1 <= len(batch) <= batch_size
            seen.update(reader.held[sample] for sample in batch)
        assert reader.reads == 1
    every = {(file, line) for file, size in Reader(sizes).lines.items() for line in range(size)}
    assert seen == Counter(every)


def test_a_worker_holds_the_files_of_its_share_alone():
    reader, shares = worker([2, 3, 4, 5, 6])
    shares.batch(0, 1, 2)
    assert {file for file, _ in reader.held} == {Path("part-1"), Path("part-3")}


def test_when_the_count_changes_the_files_are_dealt_anew():
    held = []
    workers = [worker([10] * 6) for _ in range(3)]
    for count in (2, 3, 2):
        for index in range(count):
            workers[index][1].batch(5, index, count)
        held.append([sorted({file.name[-1] for file, _ in reader.held}) for reader, _ in workers[:count]])
    assert held == [
        [["0", "2", "4"], ["1", "3", "5"]],
        [["0", "3"], ["1", "4"], ["2", "5"]],
        [["0", "2", "4"], ["1", "3", "5"]],
    ]


def test_what_is_held_is_not_read_again():
    reader, shares = worker([10, 10])
    for iteration in range(6):
        shares.batch(iteration, 0, 2)
    assert reader.reads == 1
    shares.batch(6, 0, 1)
    shares.batch(7, 0, 2)
    assert reader.reads == 3


@given(SIZES, st.lists(st.integers(0, 99), max_size=8))
def test_a_batch_does_not_depend_on_the_calls_before(sizes, iterations):
    _, used = worker(sizes)
    for iteration in iterations:
        count = iteration % len(sizes) + 1
        _, fresh = worker(sizes)
        place = (iteration, iteration % count, count)
        np.testing.assert_array_equal(used.batch(*place), fresh.batch(*place))


def test_a_worker_without_a_file_is_told_and_the_others_go_on():
    _, shares = worker([4, 4])
    with pytest.raises(DataError) as refused:
        shares.batch(0, 2, 3)
    assert str(refused.value) == TOO_FEW
    assert len(shares.batch(0, 1, 3)) == 4


class TestFind:
    @pytest.fixture
    def data_dir(self, tmp_path):
        (tmp_path / "set" / "part-0").mkdir(parents=True)
        for name in ("part-b", "part-a", "other"):
            (tmp_path / "set" / name).touch()
        return tmp_path

    def test_files_by_name_and_no_folders(self, data_dir):
        assert find("set/part-*", data_dir) == (data_dir / "set" / "part-a", data_dir / "set" / "part-b")

    def test_a_whole_path(self, data_dir, tmp_path):
        assert find(f"{data_dir}/set/oth*", Path("elsewhere")) == (data_dir / "set" / "other",)

    def test_none_is_an_error(self, data_dir):
        with pytest.raises(DataError) as refused:
            find("set/x*", data_dir)
        assert str(refused.value) == f"--files 'set/x*' matches no file in {data_dir}, the data directory"

    def test_fewer_than_workers_is_an_error(self, data_dir):
        with pytest.raises(DataError) as refused:
            find("set/part-*", data_dir, workers=3)
        assert str(refused.value) == TOO_FEW


def test_parts_are_joined_in_their_order():
    parts = [Labelled(np.full((n, 2), n), np.arange(n)) for n in (1, 0, 2)]
    whole = joined(parts, [])
    assert whole.inputs.tolist() == [[1, 1], [2, 2], [2, 2]]
    assert whole.labels.tolist() == [0, 0, 1]


def test_files_without_a_sample_are_refused():
    with pytest.raises(DataError, match=r"^a, b: no samples to train on in there$"):
        joined([Labelled(np.zeros((0, 2)), np.zeros(0))] * 2, [Path("a"), Path("b")])


def test_one_eighth_of_the_files_needs_one_eighth_of_the_memory(tmp_path):
    from leeway.worker.train.data import libsvm

    files = [tmp_path / f"part-{number}" for number in range(8)]
    for file in files:
        file.write_text("+1 1:1 5:1 9:1\n" * 4_000)

    def peak(files):
        tracemalloc.start()
        held = joined([libsvm.read_a9a(file) for file in files], files)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return len(held.labels), most

    (few, small), (all_of_them, large) = peak(files[3:4]), peak(files)
    assert (few, all_of_them) == (4_000, 32_000)
    assert small < large / 4
