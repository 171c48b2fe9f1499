import math
from pathlib import Path

import numpy as np
import pytest

from leeway.errors import DataError
from leeway.worker.train.data.source import Source, is_finite

SOURCE = Source(title="Example Set", folder="example", name="set")
OWN = Source(title="Example Set", folder="example")


def test_a_file_that_is_there_is_returned(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert SOURCE.require(file) == file


def test_a_missing_file_is_named_with_the_command_that_gets_it(tmp_path):
    file = tmp_path / "my data" / "example" / "file"
    with pytest.raises(DataError) as caught:
        SOURCE.require(file)
    assert str(caught.value) == (
        f"Example Set: no file {file}; run: ps-data get set --data-dir '{tmp_path / 'my data'}'"
    )


def test_the_command_for_the_default_data_directory_is_short():
    assert str(SOURCE.missing(Path("data/example/x"))) == ("Example Set: no file data/example/x; run: ps-data get set")


def test_a_bad_file_has_to_be_moved_away_first():
    assert str(SOURCE.malformed(Path("data/example/x"), "is empty")) == (
        "Example Set: data/example/x is empty; move it away and run: ps-data get set"
    )


def test_what_nobody_can_fetch_is_named_alone():
    assert str(OWN.missing(Path("rows"))) == "Example Set: no file rows"
    assert str(OWN.malformed(Path("rows"), "is empty")) == "Example Set: rows is empty"


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(DataError, match="no file"):
        SOURCE.require(tmp_path)


def test_a_path_that_the_system_refuses_is_one_line(tmp_path):
    file = tmp_path / ("n" * 300) / "file"
    with pytest.raises(DataError) as caught:
        SOURCE.require(file)
    assert str(caught.value) == f"Example Set: {file}: File name too long"


@pytest.mark.parametrize("value", [3.4028234663852886e38, 3.5e38, 1e300, math.inf, math.nan])
def test_a_number_is_finite_where_it_is_one_as_float32(value):
    with np.errstate(over="ignore"):
        assert [is_finite(number) for number in (value, -value)] == [bool(np.isfinite(np.float32(value)))] * 2


def test_every_place_that_was_tried_is_named(tmp_path):
    assert f"no file {tmp_path / 'a' / 'x'} or {tmp_path / 'b'}; run" in str(
        SOURCE.missing(tmp_path / "a" / "x", tmp_path / "b")
    )


def test_a_data_error_is_a_mistake_of_the_user():
    assert issubclass(DataError, ValueError)
