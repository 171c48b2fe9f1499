"""The history of a run: every event and what was decided about it, as JSON lines.

The one rule: what stands here is what the machine saw and said, in its order, so that a checker can judge the
guarantees from this file alone. Ticks and renewals that changed nothing are left out.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from leeway.errors import WireError
from leeway.protocol.versions import Version
from leeway.ps.core.events import Heard, Tick

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from leeway.ps.core.effects import Effect
    from leeway.ps.core.events import Event


def plain(value: object) -> Any:
    """A message, event or effect as JSON-ready data; `is` names its type."""
    if isinstance(value, Version):
        return str(value)
    if isinstance(value, WireError):
        return value.to_document()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return value


def _ends_in_half_a_line(path: Path) -> bool:
    """Whether a server that was killed has written here: what is put behind its half line could not be read."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
    return False


class History:
    """Appends to `path`. Raises `OSError` when it cannot be written."""

    def __init__(self, path: Path) -> None:
        torn = _ends_in_half_a_line(path)
        self._file: IO[str] = path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def begin(self, facts: Mapping[str, Any]) -> None:
        """The first line of a start: epoch, wall time, settings, and the state that it goes on from."""
        self._write({"is": "Started", **facts})

    def record(self, seconds: float, event: Event, effects: Sequence[Effect]) -> None:
        """`seconds` since the start."""
        if effects or not isinstance(event, (Tick, Heard)):
            effect_rows = [plain(effect) for effect in effects]
            self._write({"t": round(seconds, 6), "event": plain(event), "effects": effect_rows})

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, separators=(",", ":")) + "\n")
