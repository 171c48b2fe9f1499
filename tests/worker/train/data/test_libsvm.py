import numpy as np
import pytest

from leeway.errors import DataError
from leeway.worker.train.data import libsvm
from leeway.worker.train.data.source import Source

SOURCE = Source(title="Example", folder="example", name="example")


def write(path, text):
    path.write_bytes(text.encode())
    return path


def test_rows_become_dense(tmp_path):
    path = write(tmp_path / "rows", "-1 1:1 3:0.5 \n+1\n2.5 2:-1e-3 3:4\n")
    rows = libsvm.read(path, 3, SOURCE)
    assert rows.inputs.dtype == rows.labels.dtype == np.float32
    np.testing.assert_array_equal(rows.inputs, np.float32([[1, 0, 0.5], [0, 0, 0], [0, -1e-3, 4]]))
    assert rows.labels.tolist() == [-1, 1, 2.5]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "it is empty"),
        ("yes 1:1", "could not convert"),
        ("nan 1:1", "label 'nan' is not finite"),
        ("1 1", "'1' is not index:value"),
        ("1 one:1", "invalid literal"),
        ("1 1:one", "could not convert"),
        ("1 1:", "could not convert"),
        ("1 1:inf", "'1:inf' is not finite"),
        ("1 1:1e300", "'1:1e300' is not finite as a float32"),
        ("-1e39 1:1", "label '-1e39' is not finite as a float32"),
        ("1 0:1", "index 0 after 0; indices ascend from 1 to 3"),
        ("1 4:1", "index 4 after 0"),
        ("1 2:1 2:1", "index 2 after 2"),
        ("1 -1:1", "index -1 after 0"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, words):
    path = write(tmp_path / "rows", f"1 1:1\n{line}\n1 1:1\n")
    with pytest.raises(DataError, match=f"has a bad line 2: .*{words}"):
        libsvm.read(path, 3, SOURCE)


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"1 1:1\n\xff\xfe")
    with pytest.raises(DataError, match="is not ASCII text"):
        libsvm.read(path, 3, SOURCE)


def test_a9a_with_rows_missing_is_refused(tmp_path):
    (tmp_path / "a9a").mkdir()
    write(tmp_path / "a9a" / "a9a", "-1 3:1 11:1\n+1 123:1\n")
    with pytest.raises(
        DataError, match=r"a9a has 2 rows, not 32561; move it away and run: ps-data get a9a --data-dir "
    ):
        libsvm.load_a9a(tmp_path)


def test_a9a_with_another_label_is_refused(tmp_path):
    (tmp_path / "a9a").mkdir()
    write(tmp_path / "a9a" / "a9a", "-1 3:1\n" * 32_560 + "0 3:1\n")
    with pytest.raises(DataError, match=r"has a label other than -1 and \+1"):
        libsvm.load_a9a(tmp_path)


def test_a_missing_a9a_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a9a: no file \S*a9a; run: ps-data get a9a --data-dir "):
        libsvm.load_a9a(tmp_path)


@pytest.mark.data
def test_the_published_a9a(published):
    train, test = libsvm.load_a9a(published("a9a"))
    assert train.inputs.shape == (32_561, 123)
    assert test.inputs.shape == (16_281, 123)
    assert [int(np.count_nonzero(part.inputs)) for part in (train, test)] == [451_592, 225_731]
    assert [int(part.labels.sum()) for part in (train, test)] == [7_841, 3_846]
    assert np.unique(train.inputs).tolist() == [0, 1]
    # The first row of the file, read by hand.
    expected = [3, 11, 14, 19, 39, 42, 55, 64, 67, 73, 75, 76, 80, 83]
    assert (np.flatnonzero(train.inputs[0]) + 1).tolist() == expected
