"""The folder in which a server keeps its state, and the epochs of its lives.

The one rule: an epoch is used again only by a server that goes on from exactly the state with which the
last one stopped; every other start begins a new, larger one, so a version that some client remembers never
means two things. Which state that is, is known by its checkpoint's content: a name can be given to another file.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

from leeway import regular
from leeway.protocol import documents
from leeway.ps.storage import digests
from leeway.ps.storage.checkpoints import DEFAULT_RETAINED, Checkpoints
from leeway.ps.storage.files import in_words, remove_partial_files, write_durably

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

EPOCH_FILE = "epoch.json"
LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class _LastLife:
    """What `epoch.json` says beside its own digest.

    `checkpoint`, and the digest that this file ends in: the one that the server has started from, and after a clean
    stop the one with which it stopped. None: it has started from nothing. Older versions wrote no `checkpoint_digest`:
    what they stopped with is not known, and a new epoch begins.
    """

    epoch: int
    clean: bool
    checkpoint: str | None
    checkpoint_digest: str | None = None

    @classmethod
    def of(cls, epoch: int, checkpoint: Path | None, *, clean: bool) -> Self:
        """Raises `OSError` where the checkpoint cannot be read."""
        if checkpoint is None:
            return cls(epoch, clean, None)
        return cls(epoch, clean, checkpoint.name, digests.of_content(checkpoint))

    def stopped_with(self, checkpoint: Path) -> bool:
        """Whether the server stopped cleanly with this file, of this content. Raises `OSError`."""
        return self.clean and self == self.of(self.epoch, checkpoint, clean=True)


class StateDirectory:
    """A folder that belongs to one server, from here until `close`. It is made where it does not exist.

    Raises `ValueError` in one line when it cannot be used, above all when another server uses it.
    """

    def __init__(self, path: Path, retained: int = DEFAULT_RETAINED) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                regular.check(path / LOCK_FILE)
            self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, regular.PRIVATE)
        except OSError as error:
            raise ValueError(f"cannot use the state directory {path} ({in_words(error)}); choose another") from None
        try:
            self._take_lock()
            try:
                remove_partial_files(path)
            except OSError as error:
                raise ValueError(f"cannot clear the state directory {path} ({in_words(error)}); mend that") from None
            self.checkpoints = Checkpoints(path, retained)
            self._epoch: int | None = None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another server have the folder. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def begin(self, now_ms: int, resumed: Path | None, saved_epoch: int = 0) -> int:
        """Begin a life from the checkpoint that was read, or from nothing, and return its epoch.

        It is `saved_epoch`, the checkpoint's, where the last life was of that epoch and stopped cleanly with this
        checkpoint; otherwise a larger one than both, and not below `now_ms`. From here on the folder counts as not
        cleanly stopped. Raises `ValueError` when `epoch.json` is damaged or cannot be written.
        """
        last = self._read()
        try:
            goes_on = last is not None and resumed is not None and last.stopped_with(resumed)
            if last is not None and goes_on and last.epoch == saved_epoch:
                epoch = saved_epoch
            else:
                epoch = max(now_ms, saved_epoch + 1, last.epoch + 1 if last else 0)
            self._write(_LastLife.of(epoch, resumed, clean=False))
        except OSError as error:
            raise ValueError(
                f"cannot write {self.path / EPOCH_FILE} ({in_words(error)}); without it no epoch can begin: make room, "
                "or choose another --state-dir"
            ) from None
        self._epoch = epoch
        return epoch

    def finish_clean(self, checkpoint: Path) -> None:
        """The server stops, and nothing has happened since this checkpoint was taken. Raises `OSError`."""
        assert self._epoch is not None, "a life ends that has begun"
        self._write(_LastLife.of(self._epoch, checkpoint, clean=True))

    def _take_lock(self) -> None:
        # Windows has no flock; there a second server on the same folder is the user's to avoid.
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            who = f"process {holder}" if holder else "another server"
            raise ValueError(
                f"the state directory {self.path} is in use by {who}; stop it or choose another directory"
            ) from None
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _read(self) -> _LastLife | None:
        path = self.path / EPOCH_FILE
        try:
            regular.check(path)
            fields = documents.parse(path.read_bytes())
            # One of an older version has no digest.
            digest = fields.pop("digest", None) if isinstance(fields, dict) else None
            if not isinstance(fields, dict) or set(fields) | {"checkpoint_digest"} != set(_LastLife.__slots__):
                raise ValueError(f"it holds no object of {', '.join(_LastLife.__slots__)}")
            life = _LastLife(**fields)
            if type(life.epoch) is not int or life.epoch < 0 or type(life.clean) is not bool:
                raise ValueError("its fields are of the wrong type")
            if digest is not None and digest != _digest(life):
                raise ValueError("it is not what was written, its digest is of something else")
            return life
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ValueError(
                f"cannot read {path} ({in_words(error)}); mend that, or remove it to begin a new epoch"
            ) from None
        except ValueError as error:
            raise ValueError(f"unreadable {path}: {error}; remove it to begin a new epoch") from None

    def _write(self, life: _LastLife) -> None:
        fields = {**asdict(life), "digest": _digest(life)}
        write_durably(self.path / EPOCH_FILE, [json.dumps(fields).encode() + b"\n"])


def _digest(life: _LastLife) -> str:
    further = [] if life.checkpoint_digest is None else [str(life.checkpoint_digest)]
    return digests.of_fields([str(life.epoch), str(life.clean), str(life.checkpoint), *further])
