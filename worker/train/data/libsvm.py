"""Sparse rows in LIBSVM's text format, and a9a, the census income set in that format.

The one rule: a row either parses completely or is refused with its line number; no value is repaired.

A line is a label and then `index:value` pairs with ascending indices that begin at 1; what is not named is 0.
a9a: Chang and Lin, "LIBSVM data", after Platt (1998) from UCI Adult (Becker and Kohavi, 1996).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from leeway.worker.train.data.source import Labelled, Source, is_finite

if TYPE_CHECKING:
    from pathlib import Path

A9A = Source(title="a9a", folder="a9a", name="a9a")
A9A_PARTS = Source(title="rows as of a9a", folder="a9a")
A9A_FEATURES = 123
A9A_TRAIN_SAMPLES = 32_561
A9A_TEST_SAMPLES = 16_281


def load_a9a(data_dir: Path) -> tuple[Labelled, Labelled]:
    """Return (train, test) of a9a from `data_dir/a9a/`.

    Inputs are float32 (n, 123), all 0 or 1; labels are uint8 (n,), 1 = income above 50,000 dollars.

    Raises:
        DataError: a file is missing, malformed, or of another length; a label is not -1 or +1.
    """
    return _published_a9a(data_dir / A9A.folder / "a9a", A9A_TRAIN_SAMPLES), load_a9a_held_out(data_dir)


def load_a9a_held_out(data_dir: Path) -> Labelled:
    """Return the held-out part alone; see `load_a9a`."""
    return _published_a9a(data_dir / A9A.folder / "a9a.t", A9A_TEST_SAMPLES)


def read_a9a(path: Path, source: Source = A9A_PARTS) -> Labelled:
    """Return the rows of a file as a9a has them, however many they are; see `load_a9a`."""
    part = read(path, A9A_FEATURES, source)
    if not np.isin(part.labels, (-1.0, 1.0)).all():
        raise source.malformed(path, "has a label other than -1 and +1")
    return Labelled(part.inputs, (part.labels > 0).astype(np.uint8))


def read(path: Path, features: int, source: Source) -> Labelled:
    """Return all rows of a LIBSVM file, dense: inputs float32 (n, features), labels float32 (n,).

    Raises:
        DataError: the file is missing, or a row is malformed; the error names `source` and the line.
    """
    labels: list[float] = []
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    try:
        with source.require(path).open(encoding="ascii") as file:
            for number, line in enumerate(file, start=1):
                try:
                    label, entries = _row(line, features)
                except ValueError as error:
                    raise source.malformed(path, f"has a bad line {number}: {error}") from error
                rows.extend([len(labels)] * len(entries))
                columns.extend(index - 1 for index, _ in entries)
                values.extend(value for _, value in entries)
                labels.append(label)
    except UnicodeDecodeError as error:
        raise source.malformed(path, f"is not ASCII text ({error.reason} at byte {error.start})") from error
    inputs = np.zeros((len(labels), features), dtype=np.float32)
    inputs[rows, columns] = values
    return Labelled(inputs, np.array(labels, dtype=np.float32))


def _row(line: str, features: int) -> tuple[float, list[tuple[int, float]]]:
    words = line.split()
    if not words:
        raise ValueError("it is empty")
    label = float(words[0])
    if not is_finite(label):
        raise ValueError(f"label {words[0]!r} is not finite as a float32")
    entries: list[tuple[int, float]] = []
    previous = 0
    for word in words[1:]:
        index_text, colon, value_text = word.partition(":")
        if not colon:
            raise ValueError(f"{word!r} is not index:value")
        index, value = int(index_text), float(value_text)
        if not previous < index <= features:
            raise ValueError(f"index {index} after {previous}; indices ascend from 1 to {features}")
        if not is_finite(value):
            raise ValueError(f"{word!r} is not finite as a float32")
        entries.append((index, value))
        previous = index
    return label, entries


def _published_a9a(path: Path, samples: int) -> Labelled:
    part = read_a9a(path, A9A)
    if len(part.labels) != samples:
        raise A9A.malformed(path, f"has {len(part.labels)} rows, not {samples}")
    return part
