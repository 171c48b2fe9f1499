from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tests.demo.plan import MODES, Plan
from tests.demo.screen import Rate, Screen
from tests.demo.viewing import Viewing

WAITS = {"reason": "lag", "detail": "w1 leads w0 by 4 > 3", "waiting_for": ["w0"]}


def worker(rank: str, clock: int, lag: int, state: str, **more: Any) -> dict[str, Any]:
    progress = {"clock": clock, "lag": lag, "state": state, **more}
    return {"rank": rank, "groups": {"default": progress}, "reported": {"loss": 0.1234} if clock else {}}


def status(*workers: dict[str, Any], version: int = 11, seconds: float = 5.0) -> dict[str, Any]:
    return {"uptime_seconds": seconds, "groups": {"default": {"version": version}}, "workers": list(workers)}


RUNNING = status(worker("w0", 1, 0, "computing"), worker("w1", 5, 4, "waiting", why=WAITS), worker("w2", 3, 2, "idle"))


def shown(told: dict[str, Any], *, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=80)
    with Screen(console, MODES[1], Plan(), Viewing(console, "")) as screen:
        screen.begin("http://127.0.0.1:1")
        screen.show(told)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, rank: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.strip().startswith(rank))
    return [cell for cell in line.split() if set(cell) - set("━╸╺")]


def test_the_table_says_who_computes_and_who_waits_for_whom():
    text = shown(RUNNING, terminal=True)
    assert "ssp (bound 3)   version 11" in text
    assert row(text, "w0") == ["w0", "1", "0", "0.123", "computes,", "slowed"]
    assert row(text, "w1") == ["w1", "5", "4", "0.123", "waits", "for", "w0"]
    assert row(text, "w2") == ["w2", "3", "2", "0.123", "idle"]
    assert row(text, "w3") == ["w3", "0", "starting"]


def test_a_worker_that_has_left_is_done_and_keeps_its_clock():
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    with Screen(console, MODES[0], Plan(), Viewing(console, "")) as screen:
        screen.begin("http://127.0.0.1:1")
        screen.show(status(worker("w0", 160, 0, "computing")))
        screen.show(status())
    assert isinstance(console.file, io.StringIO)
    last = console.file.getvalue().rpartition("version")[2]
    assert row(last, "w0") == ["w0", "160", "done"]


def test_elsewhere_it_is_a_plain_line():
    text = shown(RUNNING, terminal=False)
    assert "ssp (bound 3): clocks 1 5 3 0  version 11  0 steps/s  w1 waits for w0" in text
    assert "\x1b" not in text
    assert "steps/s  nobody waits" in shown(status(worker("w0", 1, 0, "computing")), terminal=False)


def test_a_wait_for_nobody_in_particular_is_told_in_words():
    why = {"reason": "own-update", "detail": "version 12 with w0's own update is being made", "waiting_for": []}
    told = status(worker("w0", 2, 0, "waiting", why=why))
    assert row(shown(told, terminal=True), "w0")[-5:] == ["waits", "for", "its", "own", "update"]
    assert "steps/s  w0 waits for its own update" in shown(told, terminal=False)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([], 0.0),
        ([(1.0, 5)], 0.0),
        ([(1.0, 5), (1.0, 6)], 0.0),
        ([(1.0, 5), (2.0, 25)], 20.0),
        ([(0.0, 0), (9.0, 100), (10.0, 110)], 10.0),
    ],
)
def test_the_rate_is_that_of_the_last_seconds(seen, expected):
    rate = Rate()
    for seconds, version in seen:
        rate.note(seconds, version)
    assert rate.per_second == pytest.approx(expected)
