"""Where a data set comes from, and what to say when its files are missing or wrong.

The one rule: a loader never guesses. A file that is not what its publisher describes is refused with its
path, what was found, what was expected and where to get the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from leeway.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class Labelled(NamedTuple):
    """Samples and their labels: the first axis of both counts the samples."""

    inputs: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A published data set: its name, its folder in the data directory, and in words where to get it."""

    title: str
    folder: str
    obtain: str

    def require(self, path: Path) -> Path:
        """Return `path` if a file is there, else raise the `DataError` of `missing`."""
        if not path.is_file():
            raise self.missing(path)
        return path

    def missing(self, *places: Path) -> DataError:
        """Return the error for a file that was found at none of `places`."""
        looked = " or ".join(str(place) for place in places)
        return DataError(
            f"{self.title}: no file {looked}. Get it from {self.obtain}. The data directory (--data-dir or"
            f" PS_DATA_DIR) is the folder that holds {self.folder}/."
        )

    def malformed(self, path: Path, problem: str) -> DataError:
        """Return the error for a file that is there but is not what it should be."""
        return DataError(f"{self.title}: {path} {problem}. Get it again from {self.obtain}.")
