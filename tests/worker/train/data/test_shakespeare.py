import numpy as np
import pytest

from leeway.errors import DataError
from leeway.worker.train.data import shakespeare


def write(tmp_path, content):
    (tmp_path / "shakespeare").mkdir()
    (tmp_path / "shakespeare" / "tinyshakespeare.txt").write_bytes(content)
    return tmp_path


def text_of(symbols):
    return (bytes(symbols) * (shakespeare.CHARACTERS // len(symbols) + 1))[: shakespeare.CHARACTERS]


def test_ids_follow_code_points_and_the_split_is_by_place(tmp_path):
    content = text_of(range(126, 61, -1))
    plays = shakespeare.load(write(tmp_path, content))
    assert plays.vocabulary == "".join(map(chr, range(62, 127)))
    assert plays.train[:3].tolist() == [64, 63, 62]
    assert len(plays.train) == 1_003_854
    assert len(plays.test) == 111_540
    assert plays.train.dtype == plays.test.dtype == np.uint8
    assert (plays.text(plays.train) + plays.text(plays.test)).encode() == content


@pytest.mark.parametrize("change", [-1, 1])
def test_another_length_is_refused(tmp_path, change):
    content = text_of(range(62, 127)) + b"~"
    with pytest.raises(DataError, match=f"has {1_115_394 + change} bytes, not 1115394"):
        shakespeare.load(write(tmp_path, content[: shakespeare.CHARACTERS + change]))


@pytest.mark.parametrize("symbols", [range(62, 126), range(61, 127), range(100, 165)])
def test_another_vocabulary_is_refused(tmp_path, symbols):
    with pytest.raises(DataError, match="distinct characters, not 65 of ASCII"):
        shakespeare.load(write(tmp_path, text_of(symbols)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file \S*tinyshakespeare\.txt; run: ps-data get shakespeare --data-dir "):
        shakespeare.load(tmp_path)


@pytest.mark.data
def test_the_published_text(published):
    plays = shakespeare.load(published("shakespeare"))
    assert len(plays.vocabulary) == 65
    assert plays.vocabulary.startswith("\n !$&',-.3:;?ABC")
    assert plays.text(plays.train[:14]) == "First Citizen:"
    assert len(np.unique(plays.train)) == 65
