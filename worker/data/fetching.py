"""A whole data set to its place in the data directory: what is missing is fetched, what is there is checked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from leeway.worker.data.download import Watcher, check, download
from leeway.worker.data.system import errors_of
from leeway.worker.data.unpacking import unpack

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from leeway.worker.data.published import DataSet, Download


class Display(Protocol):
    """What a user sees of it."""

    def following(self, wanted: Download) -> AbstractContextManager[Watcher]:
        """Follow one download, from its begin to its end."""
        ...

    def done(self, path: Path, what: str) -> None:
        """A file is in its place: `what` was done for it."""
        ...


def fetch(data_set: DataSet, data_dir: Path, display: Display, mirror: str | None = None) -> None:
    """Bring all files of a data set to `data_dir`. Raises `DataError` in one line.

    `mirror`: the address of a data directory of the same layout, in place of the publishers' addresses.
    """
    folder = data_dir / data_set.folder
    for wanted in data_set.downloads:
        with errors_of(folder):
            fetched = _fetch(data_set, wanted, folder, display, mirror) if wanted.missing(folder) else False
            if not fetched and not wanted.members:
                check(folder / wanted.path, wanted)
        for member in wanted.wanted:
            display.done(folder / member.path, "fetched" if fetched else "is there")


def _fetch(data_set: DataSet, wanted: Download, folder: Path, display: Display, mirror: str | None) -> bool:
    """Fetch, and unpack. Returns False for a file that is there, whole or not: it is not written over."""
    target = folder / wanted.path
    if target.exists():
        if not wanted.members:
            return False
        check(target, wanted)
    else:
        base = None if mirror is None else f"{mirror.rstrip('/')}/{data_set.folder}/{wanted.path}"
        addresses = wanted.addresses if base is None else (base,)
        with display.following(wanted) as watcher:
            asyncio.run(download(wanted, folder, addresses, watcher))
    if wanted.members:
        unpack(target, wanted.members, folder)
        target.unlink()
    return True
