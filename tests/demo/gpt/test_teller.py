from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from tests.demo.gpt.teller import Teller
from tests.demo.viewing import Viewing

WAITS = {"reason": "lag", "detail": "fast leads slow by 9 > 8", "waiting_for": ["slow"]}


def worker(rank: str, clock: int, loss: float | None, state: str = "computing", **more: Any) -> dict[str, Any]:
    reported = {} if loss is None else {"loss": loss}
    return {"rank": rank, "groups": {"default": {"clock": clock, "state": state, **more}}, "reported": reported}


def status(seconds: float, *workers: dict[str, Any], begun: bool = True) -> dict[str, Any]:
    barriers = {"start": 1} if begun else {}
    groups = {"default": {"version": 7}}
    return {"uptime_seconds": seconds, "groups": groups, "workers": list(workers), "barriers": barriers}


def told(*looks: dict[str, Any] | str) -> list[str]:
    """What is printed after the address when these states are shown, and these words told."""
    console = Console(file=io.StringIO(), width=80, color_system=None)
    teller = Teller(console, Viewing(console, ""))
    for look in looks:
        if isinstance(look, str):
            teller.tell(look)
        else:
            teller.show(look)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_times_count_from_the_beginning_of_all():
    assert told(status(9.0), "something happens", status(11.4), "something else happens") == [
        "   0 s  all are there and begin",
        "   0 s  something happens",
        "   2 s  something else happens",
    ]


def test_until_then_it_is_told_who_is_there():
    looks = [status(1.0, begun=False), status(2.0, begun=False)]
    assert told(*looks, status(4.0, worker("fast", 0, None, "idle"), begun=False)) == [
        "        the workers start; there: nobody yet",
        "        the workers start; there: fast",
    ]


def test_every_few_seconds_it_is_told_how_things_stand():
    workers = worker("fast", 31, 3.0, "waiting", why=WAITS), worker("slow", 23, 3.5)
    looks = [status(10.0 + second, *workers) for second in range(8)]
    line = "version 7  loss 3.25  fast at 31 waits for slow, slow at 23 computes"
    assert told(*looks) == ["   0 s  all are there and begin", f"   3 s  {line}", f"   6 s  {line}"]


def test_what_has_been_told_need_not_be_told_again_at_once():
    looks = [status(10.0 + second, worker("slow", 1, 3.5)) for second in range(6)]
    assert [line[:10] for line in told(*looks[:3], "slow is killed", *looks[3:])] == [
        "   0 s  al",
        "   2 s  sl",
        "   5 s  ve",
    ]
