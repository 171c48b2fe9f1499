"""Reading a history file: what a killed server leaves is passed over, what is no history is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from leeway.errors import HistoryError
from leeway.ps.watching import recording
from leeway.ps.watching.recording import Recording

if TYPE_CHECKING:
    from pathlib import Path

START = {"is": "Started", "epoch": 7, "time": 1.0}
ROW = {"t": 0.5, "event": {"is": "Tick"}, "effects": [{"is": "Finished"}]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_rows_in_their_order(path: Path) -> None:
    path.write_text(lines(START, ROW, START, ROW))
    history = Recording(path)
    assert list(history) == [START, ROW, START, ROW]
    assert history.unfinished is None


def test_half_a_line_at_the_end_is_told_of(path: Path) -> None:
    path.write_text(lines(START, ROW) + '{"t":1.0,"event":{"is"')
    history = Recording(path)
    assert list(history) == [START, ROW]
    assert history.unfinished == 3


def test_half_a_line_before_a_start_is_what_a_killed_server_left(path: Path) -> None:
    path.write_text(lines(START) + '{"t":1.0,"ev\n' + lines(START, ROW))
    history = Recording(path)
    assert list(history) == [START, START, ROW]
    assert history.unfinished is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no history: it is empty"),
        (b"step,loss\n1,0.5\n", "is no history: its first line is no start of a server"),
        (b"\x00\xff\xfe" * 100, "is no history: its first line is no start of a server"),
        (b"[" * 100_000, "is no history: its first line is no start of a server"),
        (lines(ROW, START).encode(), "is no history: its first line is no start of a server"),
        (lines(START).encode() + b"half\n" + lines(ROW).encode(), "line 2: not JSON, so no line of a history"),
        (lines(START, [1]).encode(), "line 2: neither a start nor an event with its effects"),
        (lines(START, ROW, ROW | {"t": "1"}).encode(), "line 3: neither a start nor an event with its effects"),
        (lines(START, ROW | {"t": float("inf")}).encode(), "line 2: neither a start nor"),
        (lines(START, ROW | {"event": {}}).encode(), "line 2: neither a start nor"),
        (lines(START, ROW | {"effects": [1]}).encode(), "line 2: neither a start nor"),
        (lines(START, {"t": 1.0, "event": {"is": "Tick"}}).encode(), "line 2: neither a start nor"),
        (lines(START | {"format": 2}).encode(), "line 1: its format is 2, and this program reads 1; read it with"),
        (lines(START, START | {"format": "x" * 99}).encode(), "line 2: its format is 'xxxxx"),
    ],
)
def test_what_is_no_history_is_named(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)
    with pytest.raises(HistoryError) as refused:
        list(Recording(path))
    assert str(path) in str(refused.value)
    assert said in str(refused.value)


def test_no_line_is_read_beyond_the_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_LINE_BYTES", 64)
    path.write_text("{" * 1000)
    with pytest.raises(HistoryError, match="no start of a server"):
        list(Recording(path))


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(Recording(path))
