"""Files that are either there as a whole or not at all, whatever happens in between.

The one rule: temporary file in the same folder, write, fsync, rename, fsync of the folder. Nobody but the owner can
read any of them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from leeway import regular

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from leeway.protocol.frames import Buffer

PARTIAL_SUFFIX = ".partial"


def write_durably(path: Path, buffers: Iterable[Buffer]) -> None:
    """Write or replace a file; when this returns it survives a loss of power.

    The folder has one writer at a time. Raises `OSError`; what was there before is then still there.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        # What a writer that was killed has left may be of another mode.
        partial.unlink(missing_ok=True)
        with open(partial, "wb", opener=regular.private) as file:
            for buffer in buffers:
                file.write(buffer)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def in_words(error: OSError) -> str:
    """`No space left on device: /state/epoch.json`."""
    what = error.strerror or type(error).__name__
    return f"{what}: {error.filename}" if error.filename else what


def remove_partial_files(folder: Path) -> None:
    """Clear away what writers that were killed have left. Raises `OSError`."""
    for partial in folder.glob("*" + PARTIAL_SUFFIX):
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # A rename is in the folder's own data. Windows cannot open a folder, and has no need to.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
