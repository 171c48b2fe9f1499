"""Files that are files: what is opened at a path that a user gave.

The one rule: nothing is opened that may never open or never end. A pipe waits for its other side, some devices go on
for ever, and whoever waits for them in a system call hears no signal; so what stands at a path is looked at first.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# Of a file that shows the model, the run or a secret: whatever the umask, it is its owner's alone.
PRIVATE: Final = 0o600


def private(path: str, flags: int) -> int:
    """An opener, as `open` takes one: a file that it makes is private. One that was there keeps its mode."""
    return os.open(path, flags, PRIVATE)


def check(path: Path, *, devices: bool = False, open_pipes: bool = False) -> None:
    """Raise `OSError` unless a regular file is there, or with `devices` a character device (a terminal, /dev/null).

    `open_pipes`: a pipe without a name may be there too, such as the `/dev/fd/63` that a shell makes of `<(command)`:
    its other side has been opened. Nothing there is a `FileNotFoundError`.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode) or (devices and stat.S_ISCHR(mode)):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stat.S_ISFIFO(mode):
        if open_pipes and not os.path.exists(os.path.realpath(path)):
            return
        what = "a pipe"
    else:
        what = "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise OSError(errno.EINVAL, f"it is {what}, where a regular file should be", str(path))
