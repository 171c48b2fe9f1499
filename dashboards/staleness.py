"""The dashboard Staleness: who is ahead, who waits for whom, and how old the parameters behind the updates are.

The one rule: lag and staleness are two things. Lag is between workers, in iterations; staleness is of an update, in
versions. Each panel names the one that it shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards import variables
from dashboards.board import HIGH, LOW, MIDDLE, Section, Shelf, dashboard, policy_changes, policy_in_force
from dashboards.panels import (
    BLUE,
    COUNT,
    GREEN,
    NUMBER,
    ORANGE,
    PER_SECOND,
    RED,
    SECONDS,
    SHARE,
    YELLOW,
    Column,
    Query,
    figure,
    graph,
    heat,
    rows_of,
)
from dashboards.queries import Part
from dashboards.variables import GROUP, RANKS
from leeway.ps.watching import catalogue as server

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from dashboards.panels import Panel
    from leeway.protocol.metrics import Metric

UID = "leeway-staleness"


def build() -> Dashboard:
    return dashboard(
        UID,
        "Leeway / Staleness",
        "Who is ahead and by how much, who waits for whom, how stale the updates are, and what it costs. All of it is "
        "told by the server; workers need not be scraped.",
        [variables.datasource(), variables.job(), variables.instance(), variables.group(), variables.rank()],
        [
            Section("At a glance", [Shelf(LOW, _glance())]),
            Section("Who is ahead", [Shelf(HIGH, _ahead())]),
            Section("Who waits for whom", [Shelf(HIGH, _waiting()), Shelf(HIGH, [_workers()])]),
            Section("How stale the updates are", [Shelf(HIGH, _heat()), Shelf(MIDDLE, _quantiles())]),
            Section("What is waited for, and how long", [Shelf(MIDDLE, _reasons())]),
        ],
        policy_changes(),
    )


def _glance() -> list[Panel]:
    share = f"avg ({GROUP.rate(server.WAITING_SECONDS)})"
    return [
        policy_in_force(),
        figure(
            "Bound",
            "Largest lag at which a pull is granted. ssp alone has one; empty under sync and async.",
            COUNT,
            Query(f"max ({GROUP.series(server.STALENESS_BOUND)})", "bound"),
            base=BLUE,
        ),
        figure(
            "Slowest clock",
            "Iteration of the slowest live worker. While it moves, the run moves.",
            COUNT,
            Query(f"min ({GROUP.series(server.MIN_CLOCK)})", "clock"),
            base=BLUE,
        ),
        figure(
            "Largest lag",
            "Iterations between the fastest and the slowest live worker. Under ssp at most the bound and one.",
            COUNT,
            Query(f"max ({GROUP.series(server.LAG)})", "lag"),
            base=BLUE,
        ),
        figure(
            "Waiting",
            "Share of their time that live workers wait for each other, on average. What the policy costs.",
            SHARE,
            Query(share, "waiting"),
            limits=((0.2, YELLOW), (0.5, RED)),
            decimals=1,
        ),
        figure(
            "Mean staleness",
            "Versions between the parameters that an update was computed from and those it was applied to. 0 under "
            "sync; about the number of workers less one under async.",
            NUMBER,
            Query(GROUP.mean(server.STALENESS), "staleness"),
            base=BLUE,
            decimals=2,
        ),
    ]


def _ahead() -> list[Panel]:
    return [
        graph(
            "Clock",
            "The iteration each worker is in. Parallel lines: equal speed. A line that stays behind is the straggler; "
            "one that is flat is paused or hangs.",
            COUNT,
            Query(RANKS.series(server.CLOCK), "{{rank}}"),
            Query(GROUP.series(server.MIN_CLOCK), "slowest"),
            minimum=None,
            dashed=["slowest"],
        ),
        graph(
            "Lag",
            "Iterations each worker is ahead of the slowest; 0 is the slowest itself. Under ssp the dashed line is the "
            "bound: whoever is above it waits.",
            COUNT,
            Query(RANKS.series(server.LAG), "{{rank}}"),
            Query(GROUP.series(server.STALENESS_BOUND), "bound"),
            dashed=["bound"],
            colors={"bound": RED},
        ),
    ]


def _waiting() -> list[Panel]:
    return [
        graph(
            "Who waits: share of time",
            "Share of time in which a worker's pull was waiting. Everybody but one high: look to the right for who "
            "that one is.",
            SHARE,
            Query(RANKS.rate(server.WAITING_SECONDS), "{{rank}}"),
            maximum=1.0,
            limits=((0.5, ORANGE),),
        ),
        graph(
            "Who is waited for: share of time",
            "Share of time in which others waited for this worker; of several who are waited for each one counts it. "
            "One line far above the others is a constant straggler; lines that take turns are a moving one.",
            SHARE,
            Query(RANKS.rate(server.BARRIER_HELD_SECONDS), "{{rank}}"),
            maximum=1.0,
            limits=((0.5, RED),),
        ),
    ]


def _workers() -> Panel:
    return rows_of(
        "Workers",
        "One line for each live worker: where it is, and since the start of its life how long it waited and was "
        "waited for.",
        "rank",
        "Rank",
        Column("Clock", f"max by (rank) ({RANKS.series(server.CLOCK)})", COUNT),
        Column("Lag", f"max by (rank) ({RANKS.series(server.LAG)})", COUNT),
        Column("Waits", f"max by (rank) ({RANKS.rate(server.WAITING_SECONDS)})", SHARE, 1),
        Column("Is waited for", f"max by (rank) ({RANKS.rate(server.BARRIER_HELD_SECONDS)})", SHARE, 1),
        Column("Waited in all", f"max by (rank) ({RANKS.series(server.WAITING_SECONDS)})", SECONDS),
        Column("Held in all", f"max by (rank) ({RANKS.series(server.BARRIER_HELD_SECONDS)})", SECONDS),
    )


def _heat() -> list[Panel]:
    return [
        heat(
            "Staleness of updates",
            "How many updates of each staleness were applied. The darker, the more. A row that moves up: the learning "
            "rate may have to go down.",
            COUNT,
            GROUP.buckets(server.STALENESS),
            axis="versions",
        ),
        heat(
            "Lag at which pulls were granted",
            "How many pulls were granted at each lag. Under ssp nothing is above the bound; much at the bound means "
            "that the fast ones live at it.",
            COUNT,
            GROUP.buckets(server.GRANT_LAG),
            axis="iterations",
        ),
    ]


def _quantiles() -> list[Panel]:
    return [
        graph(
            "Staleness of updates",
            "Half of the updates are fresher than p50, all but one of a hundred fresher than p99; as fine as the "
            "buckets (0 1 2 3 5 8 13 21 34 55) are.",
            NUMBER,
            *_three(server.STALENESS),
            Query(GROUP.mean(server.STALENESS), "mean"),
        ),
        graph(
            "Lag at which pulls were granted",
            "How much of the leeway is used. p99 far below the bound: the bound costs nothing.",
            NUMBER,
            *_three(server.GRANT_LAG),
            Query(GROUP.mean(server.GRANT_LAG), "mean"),
        ),
        graph(
            "Time to close a round",
            "Under sync, from the moment that a round opens to its last contribution: as long as its slowest member "
            "takes. Empty under async and ssp.",
            SECONDS,
            *_three(server.ROUND_SECONDS),
        ),
    ]


def _reasons() -> list[Panel]:
    return [
        graph(
            "Time waited, by reason",
            "Seconds a second that pulls waited before they were answered, all workers together, by what they waited "
            "for last: lag (the bound of ssp), waiting-for-round (sync), waiting-for-step (the server's arithmetic).",
            SECONDS,
            Query(GROUP.rate(server.PULL_WAIT_SECONDS, by=["reason"], part=Part.SUM), "{{reason}}"),
            stacked=True,
        ),
        graph(
            "Pulls answered, by reason",
            "Pulls a second by what they waited for last; granted are those that did not wait.",
            PER_SECOND,
            Query(GROUP.rate(server.PULL_WAIT_SECONDS, by=["reason"], part=Part.COUNT), "{{reason}}"),
            stacked=True,
            colors={"granted": GREEN},
        ),
        graph(
            "Time to answer a pull",
            "From its arrival to its answer, the wait included.",
            SECONDS,
            *_three(server.PULL_WAIT_SECONDS),
        ),
        graph(
            "Workers by what they do",
            "computing: the pull is answered; waiting: it is not yet. A worker on its way between the two is in "
            "neither.",
            NUMBER,
            Query(GROUP.series(server.WORKERS), "{{state}}"),
            stacked=True,
            colors={"computing": GREEN, "waiting": RED},
        ),
    ]


def _three(histogram: Metric) -> list[Query]:
    return [Query(GROUP.quantile(quantile, histogram), f"p{quantile * 100:g}") for quantile in (0.5, 0.9, 0.99)]
