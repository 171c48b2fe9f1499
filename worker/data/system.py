"""What the system says of a file that is fetched, in one line; and that what stands in its place is a file.

The one rule: nothing is opened that may never open or never end.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from leeway import regular
from leeway.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Make a `DataError` of what the system says, about `path` where it names no file itself."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or path}: {error.strerror or error}") from error


def refuse_other(path: Path) -> None:
    """Raise `OSError` for a pipe, a device, a folder or a link to one. Nothing may be there."""
    with suppress(FileNotFoundError):
        regular.check(path)
