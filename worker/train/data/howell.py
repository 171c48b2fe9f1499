"""Howell1: height, weight, age and sex of 544 Dobe !Kung, measured by Nancy Howell in the late 1960s.

The one rule: a file is read whole or not at all; its header and every number are checked, and of the published
one its number of rows.

As distributed with McElreath, "Statistical Rethinking"; after Howell, "Life Histories of the Dobe !Kung",
2010.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from leeway.worker.train.data.source import Source, is_finite

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SOURCE = Source(title="Howell1", folder="height-weight", name="howell")
PARTS = Source(title="rows as of Howell1", folder="height-weight")
SAMPLES = 544

_COLUMNS = ["height", "weight", "age", "male"]


@dataclass(frozen=True, slots=True)
class Howell:
    """The columns, each of shape (544,): three float64, and `male` bool."""

    height_cm: NDArray[np.float64]
    weight_kg: NDArray[np.float64]
    age_years: NDArray[np.float64]
    male: NDArray[np.bool_]


def load(data_dir: Path) -> Howell:
    """Return the columns of `data_dir/height-weight/Howell1.csv`, in the order of the file.

    Raises:
        DataError: the file is missing, has other columns or another number of rows, or a field is no number.
    """
    path = data_dir / SOURCE.folder / "Howell1.csv"
    people = read(path, SOURCE)
    if len(people.height_cm) != SAMPLES:
        raise SOURCE.malformed(path, f"has {len(people.height_cm)} rows, not {SAMPLES}")
    return people


def read(path: Path, source: Source = PARTS) -> Howell:
    """Return the columns of a file with Howell1's header, however many its rows are; `DataError` as for `load`."""
    with source.require(path).open(encoding="utf-8", errors="replace", newline="") as file:
        lines = csv.reader(file, delimiter=";")
        header = next(lines, [])
        if header != _COLUMNS:
            raise source.malformed(path, f"has the columns {header}, not {_COLUMNS} (separated by ';')")
        rows = []
        for fields in lines:
            try:
                row = [float(field) for field in fields]
            except ValueError as error:
                raise source.malformed(path, f"has a bad line {lines.line_num}: {error}") from error
            if len(row) != len(_COLUMNS) or not all(map(is_finite, row)) or row[3] not in (0, 1):
                raise source.malformed(
                    path,
                    f"has a bad line {lines.line_num}: {fields} is not four numbers, finite as float32, the last 0/1",
                )
            rows.append(row)
    height, weight, age, male = np.array(rows, dtype=np.float64).reshape(-1, len(_COLUMNS)).T
    return Howell(height.copy(), weight.copy(), age.copy(), male.astype(np.bool_))
