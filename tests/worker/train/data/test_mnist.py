import gzip
import struct

import numpy as np
import pytest

from leeway.errors import DataError
from leeway.worker.train.data import mnist


def write_idx(path, array, magic=None):
    header = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    header += struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))
    return path


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


def test_an_idx_file_is_read_as_it_was_written(tmp_path):
    path = write_idx(tmp_path / "images.gz", IMAGES)
    np.testing.assert_array_equal(mnist.read_idx(path, (3, 4, 5)), IMAGES)


def test_labels_are_read(tmp_path):
    path = write_idx(tmp_path / "labels.gz", np.array([0, 9, 4], np.uint8))
    assert mnist.read_labels(path, 3).tolist() == [0, 9, 4]


@pytest.mark.parametrize("cut", [0, 3, 10, 40])
def test_a_cut_gzip_file_is_refused(tmp_path, cut):
    path = write_idx(tmp_path / "images.gz", IMAGES)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"images\.gz (is not a complete gzip file|begins with)"):
        mnist.read_idx(path, (3, 4, 5))


def test_a_file_that_is_not_gzip_is_refused(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(bytes(100))
    with pytest.raises(DataError, match="is not a complete gzip file"):
        mnist.read_idx(path, (3, 4, 5))


def test_damaged_gzip_data_are_refused(tmp_path):
    path = write_idx(tmp_path / "images.gz", np.zeros((3, 4, 5), np.uint8))
    content = bytearray(path.read_bytes())
    content[12] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"images\.gz"):
        mnist.read_idx(path, (3, 4, 5))


@pytest.mark.parametrize("magic", [b"\0\0\x08\x01", b"\0\0\x0d\x03", b"PNG\0"])
def test_another_magic_is_refused(tmp_path, magic):
    path = write_idx(tmp_path / "images.gz", IMAGES, magic=magic)
    with pytest.raises(DataError, match=f"begins with '{magic.hex()}', not with the IDX magic '00000803'"):
        mnist.read_idx(path, (3, 4, 5))


@pytest.mark.parametrize("shape", [(4, 4, 5), (3, 5, 4), (3, 4, 4)])
def test_another_shape_is_refused(tmp_path, shape):
    path = write_idx(tmp_path / "images.gz", IMAGES)
    with pytest.raises(DataError, match=r"holds an array of shape \(3, 4, 5\), not"):
        mnist.read_idx(path, shape)


def test_a_cut_header_is_refused(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">I", 3) + b"\0\0"))
    with pytest.raises(DataError, match=r"holds an array of shape \(3,\), not"):
        mnist.read_idx(path, (3, 4, 5))


@pytest.mark.parametrize(("extra", "amount"), [(-1, "59 of"), (1, "more than"), (1000, "more than")])
def test_a_body_of_another_length_is_refused(tmp_path, extra, amount):
    header = bytes((0, 0, 8, 3)) + struct.pack(">3I", 3, 4, 5)
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(header + bytes(60 + extra)))
    with pytest.raises(DataError, match=f"holds {amount} the 60 bytes"):
        mnist.read_idx(path, (3, 4, 5))


def test_a_label_above_nine_is_refused(tmp_path):
    path = write_idx(tmp_path / "labels.gz", np.array([0, 10], np.uint8))
    with pytest.raises(DataError, match="holds the label 10; labels are 0 to 9"):
        mnist.read_labels(path, 2)


def test_a_missing_file_is_named_with_the_command_that_gets_it(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz; run: ps-data get mnist --data-dir "):
        mnist.load(tmp_path)


@pytest.mark.data
def test_the_published_files(published):
    data_dir = published("mnist")
    train, test = mnist.load(data_dir)
    assert train.inputs.shape == (60_000, 28, 28)
    assert test.inputs.shape == (10_000, 28, 28)
    assert train.inputs.dtype == test.inputs.dtype == train.labels.dtype == np.uint8
    assert train.inputs.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert train.inputs.std() / 255 == pytest.approx(0.3081, abs=5e-5)
    counts = [np.bincount(part.labels).tolist() for part in (train, test)]
    assert counts == [
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ]
