"""What is wanted of an archive, to its place: each file under its name only when it is whole.

The one rule: only members that were asked for by name and size are written, so no archive can put anything elsewhere.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from typing import IO, TYPE_CHECKING

from leeway.errors import DataError
from leeway.worker.data.system import errors_of, refuse_other

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from leeway.worker.data.published import Member


def unpack(archive: Path, members: Sequence[Member], folder: Path) -> None:
    """Write `members` of a gzipped tar file below `folder`.

    Raises `DataError` if the archive is none or lacks one of them, or if there is no space.
    """
    left = {member.path: member.size_bytes for member in members}
    try:
        with errors_of(archive), tarfile.open(archive, "r:gz") as tar:
            for found in tar:
                # A link would be followed to whatever it names.
                as_wanted = found.isreg() and left.get(found.name) == found.size
                if as_wanted and (content := tar.extractfile(found)):
                    _write(content, folder / found.name)
                    del left[found.name]
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is no complete archive ({error}): remove it and run this again") from error
    if left:
        raise DataError(f"{archive} lacks {', '.join(left)}: remove it and run this again")


def _write(content: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    refuse_other(part)
    with part.open("wb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, target)
