import numpy as np
import pytest

from leeway.errors import DataError
from leeway.worker.train.data import howell

HEADER = '"height";"weight";"age";"male"\n'
ROW = "151.765;47.8256065;63;1\n"


def write(tmp_path, text):
    folder = tmp_path / "height-weight"
    folder.mkdir()
    (folder / "Howell1.csv").write_text(text, encoding="utf-8")
    return tmp_path


def test_columns_are_read_in_order(tmp_path):
    people = howell.load(write(tmp_path, HEADER + ROW + "139.7;36.4858065;63.5;0\n" * 543))
    assert people.height_cm[:2].tolist() == [151.765, 139.7]
    assert people.weight_kg[:2].tolist() == [47.8256065, 36.4858065]
    assert people.age_years[:2].tolist() == [63, 63.5]
    assert people.male[:2].tolist() == [True, False]
    assert len(people.height_cm) == 544


@pytest.mark.parametrize(
    "line",
    ["151.765;x;63;1\n", "151.765;nan;63;1\n", "151.765;1e300;63;1\n", "1;2;3\n", "1;2;3;4;5\n", "1;2;3;2\n", "\n"],
)
def test_a_bad_line_is_named(tmp_path, line):
    with pytest.raises(DataError, match=r"Howell1\.csv has a bad line 3: "):
        howell.load(write(tmp_path, HEADER + ROW + line + ROW * 542))


@pytest.mark.parametrize("rows", [0, 543, 545])
def test_another_number_of_rows_is_refused(tmp_path, rows):
    with pytest.raises(DataError, match=f"has {rows} rows, not 544"):
        howell.load(write(tmp_path, HEADER + ROW * rows))


@pytest.mark.parametrize("header", ["", "height,weight,age,male\n", '"weight";"height";"age";"male"\n'])
def test_other_columns_are_refused(tmp_path, header):
    with pytest.raises(DataError, match=r"has the columns .*, not"):
        howell.load(write(tmp_path, header + ROW * 544))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file \S*Howell1\.csv; run: ps-data get howell --data-dir "):
        howell.load(tmp_path)


@pytest.mark.data
def test_the_published_file(published):
    people = howell.load(published("height-weight"))
    assert people.height_cm[:2].tolist() == [151.765, 139.7]
    assert np.count_nonzero(people.age_years >= 18) == 352
    assert people.height_cm.min() > 50
    assert people.height_cm.max() < 180
