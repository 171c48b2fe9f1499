"""The dashboard Server: requests, bytes, latency, arithmetic, process, checkpoints, and what goes wrong.

The one rule: it is about the process, so all groups are in it, and several servers stand beside each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards import variables
from dashboards.board import LOW, MIDDLE, Section, Shelf, dashboard
from dashboards.panels import (
    BLUE,
    BYTES,
    BYTES_PER_SECOND,
    GREEN,
    NUMBER,
    ORANGE,
    PER_SECOND,
    PLAIN,
    RED,
    SECONDS,
    SHARE,
    YELLOW,
    Query,
    figure,
    graph,
    heat,
)
from dashboards.queries import CPU_SECONDS, MAX_FILES, OPEN_FILES, RESIDENT_BYTES, START_TIME, Part
from dashboards.variables import SERVERS
from leeway.protocol.routes import UPDATES
from leeway.ps.watching import catalogue as server

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from dashboards.panels import Panel
    from leeway.protocol.metrics import Metric

UID = "leeway-server"

_OF_UPDATES = f'route="{UPDATES}"'
_LOOP_LIMITS = ((0.02, YELLOW), (0.1, RED))


def build() -> Dashboard:
    return dashboard(
        UID,
        "Leeway / Server",
        "The server as a process: what it is asked, how fast it answers, what it refuses, what it computes, and "
        "whether the state is safe.",
        [variables.datasource(), variables.job(), variables.instance()],
        [
            Section("At a glance", [Shelf(LOW, _glance())]),
            Section("Requests", [Shelf(MIDDLE, _requests()), Shelf(MIDDLE, _bytes())]),
            Section("Refused and broken off", [Shelf(MIDDLE, _refusals())]),
            Section("Arithmetic", [Shelf(MIDDLE, _arithmetic()), Shelf(MIDDLE, _updates())]),
            Section("Process", [Shelf(MIDDLE, _process())]),
            Section("Workers come and go", [Shelf(MIDDLE, _membership())]),
            Section("Checkpoints", [Shelf(MIDDLE, _checkpoints())]),
        ],
    )


def _glance() -> list[Panel]:
    return [
        figure(
            "Program",
            "Version of the program that runs.",
            PLAIN,
            Query(SERVERS.series(server.INFO), "{{version}}"),
            names=True,
        ),
        figure(
            "Up since",
            "Time since the process started.",
            SECONDS,
            Query(SERVERS.of_servers(f"time() - {SERVERS.series(START_TIME)}"), "{{instance}}"),
            base=BLUE,
        ),
        figure(
            "Requests",
            "Requests answered a second, of all routes.",
            PER_SECOND,
            Query(SERVERS.rate(server.REQUESTS, by=()), "requests"),
            base=BLUE,
        ),
        figure(
            "Refused",
            "Share of the requests that were refused. Workers that come back after an eviction make some; a steady "
            "share is a client that does something wrong.",
            SHARE,
            Query(f"{SERVERS.rate(server.REFUSED, by=())} / {SERVERS.rate(server.REQUESTS, by=())}", "refused"),
            limits=((0.01, YELLOW), (0.1, RED)),
            decimals=2,
        ),
        figure(
            "Memory",
            "Resident memory of the process: at most four versions of the model, the optimizer's state, and a body "
            "for each push under way.",
            BYTES,
            Query(SERVERS.of_servers(SERVERS.series(RESIDENT_BYTES)), "{{instance}}"),
            base=BLUE,
        ),
        figure(
            "Certificate ends in",
            "Time that the certificate is good for, of each server with TLS. ps-keys renew makes another.",
            SECONDS,
            Query(f"{SERVERS.series(server.CERTIFICATE_EXPIRY)} - time()", "{{instance}}"),
            limits=((7 * 86_400, GREEN),),
            base=RED,
        ),
        figure(
            "Open to anybody",
            "1 where whoever reaches the server from another machine is let in (--insecure).",
            NUMBER,
            Query(SERVERS.series(server.INSECURE), "{{instance}}"),
            limits=((1, RED),),
        ),
        figure(
            "Checkpoint age",
            "Time since the newest checkpoint; before the first one, since the start. So much would be lost in a "
            "crash. Empty without --state-dir: then nothing is ever saved.",
            SECONDS,
            Query(f"time() - {SERVERS.series(server.CHECKPOINT_TIMESTAMP)}", "{{instance}}"),
            limits=((3600, YELLOW), (6 * 3600, RED)),
        ),
    ]


def _requests() -> list[Panel]:
    return [
        graph(
            "Requests by route and status",
            "Requests answered a second. 409 and 410 tell a worker to join again, 503 to come again later; other 4xx "
            "are mistakes of a client, 500 are ours.",
            PER_SECOND,
            Query(SERVERS.rate(server.REQUESTS, by=["method", "route", "status"]), "{{method}} {{route}} {{status}}"),
        ),
        graph(
            "Time to answer, p50",
            "Half of the requests are answered faster: from the headers to the end of the answer, with the body and "
            "every wait in between. Pulls that wait for other workers are in it.",
            SECONDS,
            Query(SERVERS.quantile(0.5, server.REQUEST_SECONDS, by=["route"]), "{{route}}"),
            logarithmic=True,
            minimum=None,
        ),
        graph(
            "Time to answer, p99",
            "All but one of a hundred requests are answered faster.",
            SECONDS,
            Query(SERVERS.quantile(0.99, server.REQUEST_SECONDS, by=["route"]), "{{route}}"),
            logarithmic=True,
            minimum=None,
        ),
    ]


def _bytes() -> list[Panel]:
    return [
        graph(
            "Bytes received",
            "Bodies of requests, by route. Updates are the bulk: the size of the model for each.",
            BYTES_PER_SECOND,
            Query(SERVERS.rate(server.RECEIVED_BYTES, by=["route"]), "{{route}}"),
            stacked=True,
        ),
        graph(
            "Bytes sent",
            "Bodies of answers, by route. A push brings the next parameters back with it, so most stands under "
            f"{UPDATES}.",
            BYTES_PER_SECOND,
            Query(SERVERS.rate(server.SENT_BYTES, by=["route"]), "{{route}}"),
            stacked=True,
        ),
        graph(
            "Bytes spared",
            "Parameters that were not sent because the asker had them already.",
            BYTES_PER_SECOND,
            Query(SERVERS.rate(server.SPARED_BYTES, by=["group"]), "{{group}}"),
            stacked=True,
        ),
    ]


def _refusals() -> list[Panel]:
    return [
        graph(
            "Updates refused",
            "By the code of the problem document: non-finite (NaN or infinity in it), evicted, old-epoch, superseded, "
            "update-too-large (--max-update-norm). The codes stand in the reference of the HTTP surface. Ranks that "
            "are kept out, because too many of their updates were refused or an admin has said so.",
            NUMBER,
            Query(f"sum by (code) ({SERVERS.happened(server.REFUSED, _OF_UPDATES)})", "{{code}}"),
            Query(SERVERS.series(server.QUARANTINED), "ranks in quarantine"),
            bars=True,
        ),
        graph(
            "All requests refused",
            "By route and code.",
            NUMBER,
            Query(f"sum by (route, code) ({SERVERS.happened(server.REFUSED)})", "{{route}} {{code}}"),
            bars=True,
        ),
        graph(
            "Updates with NaN or infinity",
            "By group, whether they were refused or let through (--non-finite). A few at the start can be the warmup "
            "of mixed precision; many mean that the run diverges. Versions with NaN or infinity in them were published "
            "all the same, and the server's log names the tensor: go back to a checkpoint.",
            NUMBER,
            Query(f"sum by (group) ({SERVERS.happened(server.NON_FINITE)})", "{{group}}"),
            Query(SERVERS.increase(server.NON_FINITE_VERSIONS, by=("group",)), "versions of {{group}}"),
            bars=True,
            colors={"default": RED},
        ),
        graph(
            "Broken off",
            "Bodies whose sender went away in the middle, and readers that were closed because they held old versions "
            "for too long: both come from bad networks and killed processes. Connections that asked for nothing or "
            "were idle longest of too many. Figures that are not shown, because their names are too long or too many. "
            "Nothing is lost by any of them.",
            NUMBER,
            Query(SERVERS.increase(server.ABORTED_BODIES, by=()), "bodies aborted"),
            Query(SERVERS.increase(server.SLOW_READERS_CLOSED, by=()), "slow readers closed"),
            Query(SERVERS.increase(server.CONNECTIONS_CLOSED, by=("reason",)), "connections closed: {{reason}}"),
            Query(SERVERS.increase(server.FIGURES_LEFT_OUT, by=()), "figures left out"),
            bars=True,
            colors={"bodies aborted": ORANGE, "slow readers closed": RED},
        ),
    ]


def _arithmetic() -> list[Panel]:
    return [
        graph(
            "Time of a step",
            "Aggregation, optimizer and publication of one step, by group.",
            SECONDS,
            *_by_group(server.APPLY_SECONDS),
        ),
        graph(
            "Share of time in steps",
            "How busy the thread of arithmetic is. Near 100 % the server is what everybody waits for: a smaller model, "
            "fewer updates (--local-steps, --accumulate) or a faster machine.",
            SHARE,
            Query(SERVERS.rate(server.APPLY_SECONDS, by=["group"], part=Part.SUM), "{{group}}"),
            maximum=1.0,
            limits=((0.8, RED),),
        ),
        graph(
            "Steps per second",
            "Optimizer steps; each published a version.",
            PER_SECOND,
            Query(SERVERS.rate(server.STEPS, by=["group"]), "{{group}}"),
        ),
        graph(
            "Versions in memory",
            "At most 4. More than 2 for long: readers are so slow that they hold old ones.",
            NUMBER,
            Query(SERVERS.series(server.LIVE_VERSIONS), "{{group}}"),
            maximum=4.0,
            limits=((4, ORANGE),),
        ),
    ]


def _updates() -> list[Panel]:
    return [
        graph(
            "Updates by disposition and reason",
            "What became of updates, and why.",
            PER_SECOND,
            Query(SERVERS.rate(server.PUSHES, by=["disposition", "reason"]), "{{disposition}}: {{reason}}"),
            stacked=True,
        ),
        graph(
            "Size of an update",
            "Accepted updates by the size of their body, as fine as the buckets (powers of 4) are.",
            BYTES,
            *_by_group(server.UPDATE_BYTES),
        ),
        heat(
            "Sizes of updates",
            "How many accepted updates of each size. One row unless groups or workers send different things.",
            BYTES,
            SERVERS.buckets(server.UPDATE_BYTES),
            axis="body",
        ),
        graph(
            "Faults of the server's own",
            "Steps that failed, whose versions have the values of the ones before them; rounds with too few updates "
            "for their aggregation rule, which made no step; and events that history, log, metrics, live page or "
            "periodic saving could not be told. There should be none; the server's log says why.",
            NUMBER,
            Query(SERVERS.increase(server.FAILED_STEPS, by=("group",)), "failed steps of {{group}}"),
            Query(SERVERS.increase(server.ROUNDS_WITHOUT_STEP, by=("group",)), "rounds without a step of {{group}}"),
            Query(SERVERS.increase(server.LISTENER_FAILURES, by=("listener",)), "not told to {{listener}}"),
            bars=True,
        ),
    ]


def _process() -> list[Panel]:
    return [
        graph(
            "Event-loop lag",
            "How late a timer of the event loop fired: how long any request may have to wait for the server's "
            "attention. Above a tenth of a second heartbeats and latencies suffer. Stood still: seconds in which "
            "nothing ran, which count against nobody.",
            SECONDS,
            *(
                Query(SERVERS.quantile(share, server.EVENT_LOOP_LAG_SECONDS), f"p{share * 100:g}")
                for share in (0.5, 0.99, 1.0)
            ),
            Query(SERVERS.increase(server.PAUSED_SECONDS, by=()), "stood still"),
            limits=_LOOP_LIMITS,
        ),
        graph(
            "CPU",
            "Cores in use: one for the event loop, one for each group's arithmetic.",
            NUMBER,
            Query(SERVERS.of_servers(SERVERS.rate(CPU_SECONDS)), "{{instance}}"),
        ),
        graph(
            "Resident memory",
            "Grows with the first updates and then stays. A steady rise is a reader that holds on to old versions, or "
            "a bug.",
            BYTES,
            Query(SERVERS.of_servers(SERVERS.series(RESIDENT_BYTES)), "{{instance}}"),
        ),
        graph(
            "Open files",
            "File descriptors, mostly connections, and how many the process may have.",
            NUMBER,
            Query(SERVERS.of_servers(SERVERS.series(OPEN_FILES)), "{{instance}}"),
            Query(f"min ({SERVERS.of_servers(SERVERS.series(MAX_FILES))})", "limit"),
            minimum=None,
            logarithmic=True,
            dashed=["limit"],
        ),
    ]


def _membership() -> list[Panel]:
    return [
        graph(
            "Lives that began",
            "Joins, of workers that come back too.",
            NUMBER,
            Query(SERVERS.increase(server.JOINS, by=()), "joined"),
            bars=True,
            colors={"joined": GREEN},
        ),
        graph(
            "Lives that ended",
            "left is in good order; lease-expired (silent for too long) and iteration-too-long are evictions; "
            "new-session is a process that took the place of one under the same rank.",
            NUMBER,
            Query(f"sum by (reason) ({SERVERS.happened(server.DEPARTURES)})", "{{reason}}"),
            bars=True,
            colors={"left": GREEN, "lease-expired": RED, "iteration-too-long": ORANGE},
        ),
    ]


def _checkpoints() -> list[Panel]:
    return [
        graph(
            "Age of the newest checkpoint",
            "A saw: it falls to 0 with every checkpoint. A line that only rises: nothing is saved.",
            SECONDS,
            Query(f"time() - {SERVERS.series(server.CHECKPOINT_TIMESTAMP)}", "{{instance}}"),
        ),
        graph(
            "Time to save",
            "To the last fsync. Training goes on meanwhile.",
            SECONDS,
            Query(SERVERS.mean(server.CHECKPOINT_SECONDS), "mean"),
            Query(SERVERS.quantile(0.99, server.CHECKPOINT_SECONDS), "p99"),
        ),
        graph(
            "Bytes written",
            "Bytes of checkpoints a second.",
            BYTES_PER_SECOND,
            Query(SERVERS.rate(server.CHECKPOINT_BYTES, by=()), "written"),
        ),
        graph(
            "Checkpoints by outcome",
            "saved or failed. The log says why one failed; a full disk is the usual reason.",
            NUMBER,
            Query(f"sum by (outcome) ({SERVERS.happened(server.CHECKPOINTS)})", "{{outcome}}"),
            bars=True,
            colors={"saved": GREEN, "failed": RED},
        ),
    ]


def _by_group(histogram: Metric) -> list[Query]:
    return [
        Query(SERVERS.quantile(quantile, histogram, by=["group"]), f"{{{{group}}}} p{quantile * 100:g}")
        for quantile in (0.5, 0.99)
    ]
