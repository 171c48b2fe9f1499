"""Files that hold a secret.

The one rule: a secret that others can read is none. Such a file is refused, with what to do; so is one that is no file.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from leeway import regular
from leeway.errors import SettingError

if TYPE_CHECKING:
    from pathlib import Path

# More than a file with a token for every rank that there can be: more is not what it should be.
MAX_BYTES: Final = 2**24


def read(path: Path, what: str) -> bytes:
    """The content. `what`: of what, for people. Raises `SettingError`."""
    try:
        regular.check(path)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            check(path, status, what)
            # As much as is asked for is allocated, whether it is there or not.
            content = file.read(min(status.st_size, MAX_BYTES) + 1)
    except OSError as error:
        raise SettingError(f"{what} {path}: {error.strerror}") from None
    except SettingError:
        raise
    except ValueError as error:
        raise SettingError(f"{what} {path}: {error}") from None
    if len(content) > MAX_BYTES:
        raise SettingError(f"{what} {path} has more than {MAX_BYTES} bytes: it must be another file")
    return content


def read_token(path: Path) -> str:
    """The one line of a token file. Raises `SettingError`."""
    try:
        lines = read(path, "token file").decode().split()
    except UnicodeDecodeError:
        lines = []
    if len(lines) != 1:
        raise SettingError(f"token file {path} must hold one token, on one line, and nothing else")
    return lines[0]


def check(path: Path, status: os.stat_result, what: str) -> None:
    """Raise `SettingError` where others can read, or write, this file. Where it is root's a group may read it: so do
    the secrets that Kubernetes mounts for a container's user."""
    others = stat.S_IRWXO | stat.S_IWGRP | (0 if status.st_uid == 0 else stat.S_IRGRP)
    if status.st_mode & others:
        mode = stat.S_IMODE(status.st_mode)
        raise SettingError(f"{what} {path} can be read by others (mode {mode:04o}): chmod 600 {path}")
