"""Where a data set comes from, and what to say when its files are missing or wrong.

The one rule: a loader never guesses. A file that is not what its publisher describes is refused with its
path, what was found, what was expected and the command that gets the right one.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leeway.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


# The data directory of `ps-worker` and `ps-data` where nothing else is said.
_DEFAULT: Final = Path("data")

# The largest float32: (2 - 2^-23) * 2^127.
_LARGEST: Final = float.fromhex("0x1.fffffep+127")


class Labelled(NamedTuple):
    """Samples and their labels: the first axis of both counts the samples."""

    inputs: NDArray[Any]
    labels: NDArray[Any]


def is_finite(value: float) -> bool:
    """Whether it is one as a float32, in which tasks hold their samples."""
    return abs(value) <= _LARGEST


@dataclass(frozen=True, slots=True)
class Source:
    """A published data set: its title, its folder in the data directory, and what `ps-data` calls it.

    `name` None: files of the user's own in the format of that set, which nobody can fetch.
    """

    title: str
    folder: str
    name: str | None = None

    def require(self, path: Path) -> Path:
        """Return `path` if a file is there, else raise the `DataError` of `missing`."""
        try:
            there = path.is_file()
        except OSError as error:  # a name that is too long, a folder that is closed to us
            raise DataError(f"{self.title}: {path}: {error.strerror}") from None
        if not there:
            raise self.missing(path)
        return path

    def missing(self, *places: Path) -> DataError:
        """Return the error for a file that was found at none of `places`."""
        looked = " or ".join(str(place) for place in places)
        advice = f"; run: {self._command(places[0])}" if self.name else ""
        return DataError(f"{self.title}: no file {looked}{advice}")

    def malformed(self, path: Path, problem: str) -> DataError:
        """Return the error for a file that is there but is not what it should be."""
        advice = f"; move it away and run: {self._command(path)}" if self.name else ""
        return DataError(f"{self.title}: {path} {problem}{advice}")

    def _command(self, place: Path) -> str:
        """What fetches the set to the data directory in which `place` is."""
        (data_dir,) = [folder.parent for folder in place.parents if folder.name == self.folder][:1] or [_DEFAULT]
        where = "" if data_dir == _DEFAULT else f" --data-dir {shlex.quote(str(data_dir))}"
        return f"ps-data get {self.name}{where}"
