"""A worker's log lines: JSON for machines, and always with the rank."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
import structlog

from leeway.worker.watching import logs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_is_json_with_the_rank_when_nobody_looks() -> None:
    stream = io.StringIO()
    logs.configure("info", "auto", "w3", stream)
    structlog.get_logger().warning("rejoined", incarnation=2)
    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "rejoined", "incarnation": 2, "level": "warning", "rank": "w3"}


def test_a_line_of_a_stage_says_which() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", "w3", stream, stage=0)
    structlog.get_logger().info("joined")
    assert json.loads(stream.getvalue()).items() >= {"rank": "w3", "stage": 0}.items()


@pytest.mark.parametrize(
    ("log_format", "stream", "for_people"),
    [
        ("auto", Terminal(), True),
        ("console", io.StringIO(), True),
        ("json", Terminal(), False),
    ],
)
def test_a_line_for_people(log_format: str, stream: io.StringIO, for_people: bool) -> None:
    logs.configure("info", log_format, "w3", stream)
    structlog.get_logger().info("rejoined")
    assert stream.getvalue().startswith("{") != for_people
    assert "w3" in stream.getvalue()


def test_less_important_lines_are_left_out() -> None:
    stream = io.StringIO()
    logs.configure("warning", "json", "w3", stream)
    structlog.get_logger().info("no")
    assert stream.getvalue() == ""


def test_an_exception_stays_in_its_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", "w3", stream)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        structlog.get_logger().exception("failed")
    assert "RuntimeError: broken" in json.loads(stream.getvalue())["exception"]
