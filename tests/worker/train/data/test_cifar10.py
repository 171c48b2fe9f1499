import hashlib
import io

import numpy as np
import pytest

from leeway.errors import DataError
from leeway.worker.train.data import cifar10

RNG = np.random.default_rng(0)
PLANES = RNG.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 9], np.uint8)


def write_batch(path, planes=PLANES, labels=LABELS):
    records = np.concatenate([labels[:, None], planes.reshape(len(labels), -1)], axis=1)
    path.write_bytes(records.tobytes())
    return path


def write_archive(path, **changes):
    arrays = {
        "coef": np.zeros((64, 24, 2), np.int8),
        "labels": np.array([0, 9], np.uint8),
        "big_index": np.zeros((0, 3), np.int32),
        "big_value": np.zeros(0, np.int16),
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_a_batch_is_read_with_the_channels_last(tmp_path):
    part = cifar10.read_batch(write_batch(tmp_path / "batch.bin"), 4)
    np.testing.assert_array_equal(part.inputs, PLANES.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(part.labels, LABELS)


@pytest.mark.parametrize("samples", [3, 5])
def test_a_batch_of_another_length_is_refused(tmp_path, samples):
    path = write_batch(tmp_path / "batch.bin")
    with pytest.raises(DataError, match=rf"has {4 * 3073} bytes, not {samples * 3073} \({samples} records"):
        cifar10.read_batch(path, samples)


def test_a_label_above_nine_is_refused(tmp_path):
    path = write_batch(tmp_path / "batch.bin", labels=np.array([1, 2, 10, 3], np.uint8))
    with pytest.raises(DataError, match="holds the label 10; labels are 0 to 9"):
        cifar10.read_batch(path, 4)


@pytest.mark.parametrize("folder", ["cifar10", "cifar10/cifar-10-batches-bin"])
def test_the_published_batches_are_found_in_both_places_and_joined_in_order(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(cifar10, "BATCH_SAMPLES", 4)
    place = tmp_path / folder
    place.mkdir(parents=True)
    write_archive(tmp_path / "cifar10" / "cifar10-dct.npz")
    for number in range(5):
        labels = np.full(4, number, np.uint8)
        write_batch(place / f"data_batch_{number + 1}.bin", labels=labels)
    write_batch(place / "test_batch.bin")
    data = cifar10.load(tmp_path)
    assert data.edition == "CIFAR-10"
    assert data.train.labels.tolist() == np.repeat(range(5), 4).tolist()
    assert data.train.inputs.shape == (20, 32, 32, 3)
    np.testing.assert_array_equal(data.test.inputs, PLANES.transpose(0, 2, 3, 1))


def test_one_missing_batch_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "BATCH_SAMPLES", 4)
    (tmp_path / "cifar10").mkdir()
    write_batch(tmp_path / "cifar10" / "data_batch_1.bin")
    with pytest.raises(DataError, match=r"no file \S*data_batch_2\.bin; run: ps-data get cifar10 --data-dir "):
        cifar10.load(tmp_path)


def test_without_any_edition_all_three_places_are_named(tmp_path):
    with pytest.raises(DataError) as caught:
        cifar10.load(tmp_path)
    for place in (
        "cifar-10-batches-bin/data_batch_1.bin",
        "cifar10/data_batch_1.bin",
        "cifar10/cifar10-dct.npz",
    ):
        assert place in str(caught.value)


def test_the_folder_to_give_is_the_one_above_cifar10(tmp_path):
    with pytest.raises(DataError, match=rf"; run: ps-data get cifar10 --data-dir {tmp_path}$"):
        cifar10.load(tmp_path)


def test_an_archive_of_zero_coefficients_is_grey(tmp_path):
    part = cifar10.read_archive(write_archive(tmp_path / "archive.npz"), 2)
    assert part.inputs.shape == (2, 32, 32, 3)
    assert (part.inputs == 128).all()
    assert part.labels.tolist() == [0, 9]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": np.array([0, 10], np.uint8)}, "holds the label 10"),
        ({"labels": np.array([0, 1, 2], np.uint8)}, r"'labels' as uint8 \(3,\), not uint8 \(2,\)"),
        ({"labels": np.array([0, 1])}, r"'labels' as int64 \(2,\), not uint8"),
        ({"labels": None}, "is not a complete cifar10-dct.npz"),
        ({"labels": np.array([{}, {}], dtype=object)}, "holds an array that cannot be read"),
        ({"coef": np.zeros((64, 24, 3), np.int8)}, r"'coef' as int8 \(64, 24, 3\), not int8 \(64, 24, 2\)"),
        ({"coef": np.zeros((64, 24), np.int8)}, "'coef' as int8"),
        ({"big_index": np.zeros((1, 2), np.int32)}, r"not int32 \('any', 3\)"),
        ({"big_index": np.zeros((1, 3), np.int32)}, "lie outside 'coef'"),
        (
            {"big_index": np.array([[0, 0, 2]], np.int32), "big_value": np.zeros(1, np.int16)},
            "lie outside 'coef'",
        ),
        (
            {"big_index": np.array([[-1, 0, 0]], np.int32), "big_value": np.zeros(1, np.int16)},
            "lie outside 'coef'",
        ),
    ],
)
def test_a_wrong_archive_is_refused(tmp_path, changes, words):
    path = write_archive(tmp_path / "archive.npz", **changes)
    with pytest.raises(DataError, match=words):
        cifar10.read_archive(path, 2)


def test_a_cut_or_damaged_archive_is_refused(tmp_path):
    path = write_archive(tmp_path / "archive.npz")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is not a complete"):
        cifar10.read_archive(path, 2)
    path.write_bytes(content[:1000] + b"?" + content[1001:])
    with pytest.raises(DataError, match="is not a complete"):
        cifar10.read_archive(path, 2)
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    path.write_bytes(array.getvalue())
    with pytest.raises(DataError, match="is not a complete"):
        cifar10.read_archive(path, 2)


@pytest.mark.data
def test_the_jpeg_edition_decodes_to_the_known_pixels(published):
    data_dir = published("cifar10")
    if not (data_dir / "cifar10" / "cifar10-dct.npz").is_file():
        pytest.skip("PS_DATA_DIR holds no cifar10/cifar10-dct.npz")
    everything = cifar10.read_archive(data_dir / "cifar10" / "cifar10-dct.npz", 60_000)
    train, test = everything.inputs[:50_000], everything.inputs[50_000:]
    assert [hashlib.sha256(part).hexdigest() for part in (train, test)] == [
        "bf3aabd52be912dae02a0435296c4dab5289524b57f55cd162dc4796935a611b",
        "5a6aa8185204d80b65d3dfb540696dadd5f10d185ded226a96665d3e0fc6259f",
    ]
    assert np.bincount(everything.labels[:50_000]).tolist() == [5_000] * 10
    assert np.bincount(everything.labels[50_000:]).tolist() == [1_000] * 10
