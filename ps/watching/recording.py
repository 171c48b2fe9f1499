"""A history file (`ps-serve --history`) as rows, one after the other.

The one rule: one line is in memory at a time, and what is no history is refused with the file, the line and what is
wrong with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from leeway.errors import HistoryError
from leeway.protocol.fields import shown
from leeway.ps.watching.history import FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Row: TypeAlias = Mapping[str, Any]
"""`{"is": "Started", ...}`, or `{"t": seconds, "event": {"is": ...}, "effects": [{"is": ...}, ...]}`."""

# The longest lines are those of starts: they have the whole state, a few kilobytes a worker.
MAX_LINE_BYTES = 256 * 1024 * 1024


class Recording:
    """The rows of the file at `path`, to be read once.

    A server that was killed leaves half a line. The next start on the same file goes on below it, and it is passed
    over; at the end of the file it is the newest row that is missing, and `unfinished` tells.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unfinished: int | None = None
        """Number of the line at the end of the file that is not whole, counted from 1; None: all are."""

    def __iter__(self) -> Iterator[Row]:
        """Raises `OSError` when the file cannot be read, `HistoryError` when it is no history."""
        number = 0
        with self.path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                row = _parsed(line)
                if self.unfinished is not None and not _is_start(row):
                    raise HistoryError(f"{self.path}, line {self.unfinished}: not JSON, so no line of a history")
                if number == 1 and not _is_start(row):
                    raise HistoryError(f"{self.path} is no history: its first line is no start of a server")
                if row is None:
                    self.unfinished = number
                    continue
                self.unfinished = None
                if not _is_row(row):
                    raise HistoryError(f"{self.path}, line {number}: neither a start nor an event with its effects")
                if row.get("format", FORMAT) != FORMAT:
                    written = f"its format is {shown(row['format'])}, and this program reads {FORMAT}"
                    raise HistoryError(f"{self.path}, line {number}: {written}; read it with the version that wrote it")
                yield row
        if not number:
            raise HistoryError(f"{self.path} is no history: it is empty")


def _parsed(line: bytes) -> Any:
    """None: it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_start(row: object) -> bool:
    return isinstance(row, dict) and row.get("is") == "Started"


def _is_row(row: object) -> bool:
    if _is_start(row):
        return True
    return (
        isinstance(row, dict)
        and isinstance(row.get("t"), (int, float))
        and math.isfinite(row["t"])
        and _is_named(row.get("event"))
        and isinstance(row.get("effects"), list)
        and all(_is_named(effect) for effect in row["effects"])
    )


def _is_named(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("is"), str)
