"""An honest worker while one client misbehaves: the p99 of its pushes of 4 KiB beside that of a quiet server.

The one rule: an attacker is paced, so that what is measured is what the server does about it, and not who gets the
processor: the rate of each stands on the page, with the processor time that it took and that it cost the server.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tests.bench import attackers
from tests.bench.contest import Comparison, Samples
from tests.bench.peers import peer
from tests.bench.results import Section, Table
from tests.bench.server import fetch, server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.server import Server

GOAL = 5.0
LEASE_SECONDS = 3.0


def p99(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]


def under_attack(rounds: int, seconds: float, names: Sequence[str] = tuple(attackers.ATTACKS)) -> Section:
    section = Section(
        "An honest worker while another client misbehaves",
        f"p99 of pushes of 4 KiB, {seconds:g} s for each attack and as long of quiet before it; the honest worker is"
        " the library's client, which pulls and pushes one hundred times a second at most. Server, worker and attacker"
        f" share this machine's cores. The lease is {LEASE_SECONDS:g} s: that its heartbeats get through is part of"
        " what is measured.",
    )
    rows: dict[str, list[float | str | None]] = {}
    for name in names:
        quiet: list[float] = []
        attacked: list[float] = []
        told: dict[str, Any] = {}
        with ExitStack() as stack:
            serving = stack.enter_context(server("--mode", "async", "--lr", "0.001", "--lease", str(LEASE_SECONDS)))
            honest = stack.enter_context(peer("tests.bench.honest", serving.url))
            attacker = stack.enter_context(peer("tests.bench.attackers", serving.url, name))
            honest.ask(seconds=1.0)
            for _ in range(rounds):
                quiet.append(1e3 * p99(honest.ask(seconds=seconds)["push"]))
                before = serving.process.cpu_seconds
                attacker.ask(do="begin")
                pushes = honest.ask(seconds=seconds)["push"]
                told = attacker.ask(do="end")
                told["server"] = serving.process.cpu_seconds - before
                told["pushes"] = len(pushes)
                attacked.append(1e3 * p99(pushes))
            lost = _lost(serving)
        section.comparisons.append(
            Comparison(name, "ms", Samples(tuple(attacked)), "quiet", Samples(tuple(quiet)), GOAL, fewer=True)
        )
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(told["answers"].items()))
        rows[name] = [
            attackers.ATTACKS[name].words,
            told["sent"] / told["seconds"],
            answers or "none",
            told["cpu"] / told["seconds"],
            told["server"] / told["seconds"],
            "kept" if not lost else f"lost {lost} times",
        ]
    columns = ["what it does", "a second", "answers", "attacker, cores", "server, cores", "the honest one's lease"]
    section.tables.append(Table("What the attackers did, in the last round", columns, rows))
    return section


def _lost(serving: Server) -> int:
    """How often the honest worker's life has ended."""
    page = fetch(f"{serving.url}/v1/status")[0].decode()
    import json

    (row,) = (row for row in json.loads(page)["workers"] if row["rank"] == "honest")
    return int(row["incarnation"]) - 1
