import pytest

from leeway.errors import DataError
from leeway.worker.train.data.source import Source

SOURCE = Source(title="Example Set", folder="example", obtain="the page of its author")


def test_a_file_that_is_there_is_returned(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert SOURCE.require(file) == file


def test_a_missing_file_is_named_with_where_it_was_looked_for_and_where_to_get_it(tmp_path):
    with pytest.raises(DataError) as caught:
        SOURCE.require(tmp_path / "example" / "file")
    assert str(caught.value) == (
        f"Example Set: no file {tmp_path / 'example' / 'file'}. Get it from the page of"
        " its author. The data directory (--data-dir or PS_DATA_DIR) is the folder that holds example/."
    )


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(DataError, match="no file"):
        SOURCE.require(tmp_path)


def test_every_place_that_was_tried_is_named(tmp_path):
    assert f"no file {tmp_path / 'a' / 'x'} or {tmp_path / 'b'}. Get" in str(
        SOURCE.missing(tmp_path / "a" / "x", tmp_path / "b")
    )


def test_a_data_error_is_a_mistake_of_the_user():
    assert issubclass(DataError, ValueError)
