"""Log lines: JSON for machines, one format for all libraries, and a reason told once."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from leeway.ps.watching import logs
from leeway.ps.watching.logs import Doublings, OnChange

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_a_line_is_json_when_nobody_looks() -> None:
    stream = io.StringIO()
    logs.configure("info", "auto", stream)
    structlog.get_logger().info("evicted", rank="w1", reason="lease-expired")
    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "evicted", "level": "info", "rank": "w1", "reason": "lease-expired"}


def test_a_line_is_for_people_on_a_terminal() -> None:
    stream = Terminal()
    logs.configure("info", "auto", stream)
    structlog.get_logger().info("evicted", rank="w1")
    assert "evicted" in stream.getvalue()
    assert "{" not in stream.getvalue()


@pytest.mark.parametrize(("log_format", "stream"), [("json", Terminal()), ("console", io.StringIO())])
def test_the_format_can_be_chosen(log_format: str, stream: io.StringIO) -> None:
    logs.configure("info", log_format, stream)
    structlog.get_logger().info("hello")
    assert stream.getvalue().startswith("{") == (log_format == "json")


def test_less_important_lines_are_left_out() -> None:
    stream = io.StringIO()
    logs.configure("warning", "json", stream)
    structlog.get_logger().info("no")
    logging.getLogger("aiohttp.server").info("no")
    structlog.get_logger().warning("yes")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes"]


def test_lines_of_libraries_have_the_same_form() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logging.getLogger("asyncio").error("Task exception was never retrieved: %s", "x")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"]) == ("Task exception was never retrieved: x", "error")
    assert "timestamp" in line


@pytest.mark.parametrize("log", [structlog.get_logger, lambda: logging.getLogger("aiohttp.server")])
def test_an_exception_stays_in_its_line(log) -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log().exception("failed")
    assert stream.getvalue().count("\n") == 1
    assert "RuntimeError: broken" in json.loads(stream.getvalue())["exception"]


class TestDoublings:
    def test_the_first_the_second_the_fourth_time_and_so_on(self) -> None:
        doublings = Doublings()
        counts = [doublings.count("w0") for _ in range(16)]
        assert [count for count in counts if count] == [1, 2, 4, 8, 16]

    def test_subjects_are_apart(self) -> None:
        doublings = Doublings()
        assert [doublings.count(subject) for subject in ("w0", "w0", "w0", "w1")] == [1, 2, 0, 1]

    def test_what_was_over_is_told_at_once(self) -> None:
        doublings = Doublings()
        for _ in range(3):
            doublings.count("w0")
        doublings.over("w0")
        doublings.over("w1")
        assert [doublings.count("w0") for _ in range(3)] == [1, 2, 0]


class TestOnChange:
    def test_the_same_is_said_once(self) -> None:
        changed = OnChange()
        said = [changed("w0", reason) for reason in ("lag", "lag", "granted", "lag", "lag")]
        assert said == [True, False, True, True, False]

    def test_subjects_are_apart(self) -> None:
        changed = OnChange()
        assert changed("w0", "lag")
        assert changed("w1", "lag")

    def test_none_is_something_to_say(self) -> None:
        changed = OnChange()
        assert changed("w0", None)
        assert not changed("w0", None)

    def test_memory_is_bounded_and_forgets_the_longest_silent(self) -> None:
        changed = OnChange(remembered=2)
        changed("w0", "lag")
        changed("w1", "lag")
        changed("w0", "lag")
        changed("w2", "lag")
        assert not changed("w0", "lag")
        assert changed("w1", "lag")
