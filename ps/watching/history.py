"""The history of a run: every event and what was decided about it, as JSON lines.

The one rule: what stands here is what the machine saw and said, in its order, so that a checker can judge the
guarantees from this file alone, and a machine that is given these events decides the same. Ticks that changed nothing
are left out.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
from contextlib import suppress
from io import FileIO
from typing import TYPE_CHECKING, Any

from leeway import regular
from leeway.errors import WireError
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.versions import Version
from leeway.ps.core.events import Tick

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from leeway.ps.core.effects import Effect
    from leeway.ps.core.events import Event


def plain(value: object) -> Any:
    """A message, event or effect as JSON-ready data; `is` names its type."""
    if value is None or type(value) in (str, int, bool):
        return value  # most are
    if isinstance(value, Version):
        return str(value)
    if isinstance(value, WireError):
        return value.to_document()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        row: dict[str, Any] = {"is": type(value).__name__}
        for field in dataclasses.fields(value):
            part = getattr(value, field.name)
            # As on the wire, the terms of a policy are fields of the message that they are in.
            row |= part.to_fields() if isinstance(part, PolicyTerms) else {field.name: plain(part)}
        return row
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return value


# Raised when a row's meaning changes. A field more, or another type of event or effect, is no change of it.
FORMAT = 1

# Lines are kept back until the next tick, or until there are so many bytes of them.
_KEPT_BACK_BYTES = 64 * 1024


class History:
    """Appends to `path`. Every method but `close` raises `OSError` when it cannot be written.

    A terminal or /dev/stderr will do, a pipe will not: a reader that does not keep up would hold up the whole server.
    """

    def __init__(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            regular.check(path, devices=True)
        self._file = FileIO(path, "ab", opener=regular.private)
        self._lines: list[bytes] = []
        self._size_bytes = 0
        if _ends_in_half_a_line(path):
            self._lines.append(b"\n")

    def begin(self, facts: Mapping[str, Any]) -> None:
        """The first line of a start: epoch, wall time, settings, and the state that it goes on from."""
        self._add({"is": "Started", "format": FORMAT, **facts})

    def record(self, seconds: float, event: Event, effects: Sequence[Effect]) -> None:
        """`seconds` since the start."""
        if effects or not isinstance(event, Tick):
            effect_rows = [plain(effect) for effect in effects]
            self._add({"t": round(seconds, 6), "event": plain(event), "effects": effect_rows})

    def flush(self) -> None:
        """Write what is kept back. What could not be written is lost, and half a line of it is taken back."""
        lines, self._lines, self._size_bytes = self._lines, [], 0
        waiting = memoryview(b"".join(lines))
        whole = _size(self._file)
        try:
            while waiting:
                waiting = waiting[self._file.write(waiting) :]
        except OSError:
            if whole is not None:
                with suppress(OSError):
                    self._file.truncate(whole)
            raise

    def close(self) -> None:
        self._file.close()

    def _add(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        self._lines.append(line)
        self._size_bytes += len(line)
        if self._size_bytes >= _KEPT_BACK_BYTES:
            self.flush()


def _ends_in_half_a_line(path: Path) -> bool:
    """Whether a server that was killed has written here: what is put behind its half line could not be read."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
    return False


def _size(file: FileIO) -> int | None:
    """None for what is no regular file: a pipe, a device."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None
