"""Bodies over loopback: pushes that are applied, and pulls, against what the bare socket and bare aiohttp can do.

The one rule: Leeway's side is a real `ps-serve` with plain SGD and the client that a training script uses; the other
side moves the same number of bytes between as many processes.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from leeway.protocol.spans import Layout
from tests.bench import shapes
from tests.bench.contest import Comparison, take_turns
from tests.bench.peers import ask_all, peer
from tests.bench.raw_tcp import SWEEP, Streams, streams
from tests.bench.results import Section, Table
from tests.bench.server import mean, server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.bench.peers import Peer
    from tests.bench.raw_tcp import Sizes
    from tests.bench.server import Server

BODY_BYTES = 100 * shapes.MIB
SMALL_REQUESTS = 300
CYCLES = 3
WARM_UP_CYCLES = 4

# Raw TCP varies with how the scheduler places two processes: the best few of a sweep go on into the contest, and
# the best of those in the contest is the baseline.
FINALISTS = 3
SWEEP_ROUNDS = 3


@dataclass(slots=True)
class Clients:
    """Clients of one `ps-serve`. Bodies of `nbytes`; `told` is where each push's time went."""

    server: Server
    peers: Sequence[Peer]
    nbytes: int
    told: list[dict[str, float]] = field(default_factory=list)

    def warm_up(self) -> None:
        """Until both sides have the memory that they will use again and again."""
        for _ in range(WARM_UP_CYCLES):
            self.push_and_pull()
        self.told.clear()

    def push_and_pull(self) -> dict[str, float]:
        """Rates in GB/s: all pull at the same time, then all push at the same time."""
        return {direction: self.move([direction]) for direction in ("pull", "push")}

    def cycles(self) -> dict[str, float]:
        """The rate in GB/s of all pulling and pushing for themselves, nobody waiting for another."""
        return {"both": self.move(["pull", "push"] * CYCLES)}

    def move(self, directions: list[str]) -> float:
        answers = ask_all(self.peers, directions=directions)
        if directions == ["push"]:
            self.told += answers
        return len(self.peers) * len(directions) * self.nbytes / _wall_seconds(answers) / 1e9


@contextmanager
def clients(model: str, count: int, more: Sequence[str] = (), *, ca: Path | None = None) -> Iterator[Clients]:
    """A server with plain SGD, and clients that hold an update of this model. `ca`: whose certificates they believe."""
    flags = ("--mode", "async", "--optimizer", "sgd", "--lr", "0.001", "--lease", "60", "--workers", str(count))
    with ExitStack() as stack:
        serving = stack.enter_context(server(*flags, *more))
        trust = () if ca is None else ("", str(ca))
        peers = [
            stack.enter_context(peer("tests.bench.exchanging", serving.url, f"w{index}", model, *trust))
            for index in range(count)
        ]
        yield Clients(serving, peers, Layout.of(shapes.specs(model)).nbytes)


def one_client(rounds: int) -> Section:
    section = Section(
        "100 MiB, one client",
        "`ps-serve --mode async --optimizer sgd` and one client process that pulls and pushes float32. A push counts"
        " until its acknowledgement, that is until its version is published. Raw TCP: blocking sockets, one process"
        " sends 100 MiB, another receives it into memory of its own and acknowledges it with a byte; the best of"
        f" {len(SWEEP)} combinations of sizes. 161 tensors: the shapes of ResNet-50, 102 MB.",
    )
    with streams(1, BODY_BYTES) as raw, clients("single", 1) as single, clients("resnet50", 1) as many:
        finalists = _finalists(raw, section)
        single.warm_up()
        many.warm_up()
        server_cpu, before = single.server.process.cpu_seconds, single.server.metrics()
        found = take_turns(
            {"single": single.push_and_pull, "many": many.push_and_pull}
            | {str(sizes): partial(raw.push_and_pull, sizes) for sizes in finalists},
            rounds,
            warm_up_rounds=0,
        )
        server_cpu, after = single.server.process.cpu_seconds - server_cpu, single.server.metrics()
    for direction, goal in (("push", 0.5), ("pull", 0.9)):
        winner = max(map(str, finalists), key=lambda name: found[name][direction].median)
        ours = found["single"][direction]
        section.comparisons += [
            Comparison(f"{direction}, 1 tensor", "GB/s", ours, f"raw TCP ({winner})", found[winner][direction], goal),
            Comparison(f"{direction}, 161 tensors", "GB/s", found["many"][direction], "1 tensor", ours, 0.9),
        ]
    section.tables.append(_where(single.told, mean(before, after, "apply_seconds"), server_cpu / rounds))
    return section


def two_clients(rounds: int) -> Section:
    section = Section(
        "100 MiB, two clients",
        "The same with two client processes, against two pairs of processes with a raw stream each. `push`: both push"
        " at the same time, from the first byte to the last acknowledgement. `pull and push`: each does"
        f" {CYCLES} of both, one after another, without regard to the other.",
    )
    with streams(2, BODY_BYTES) as raw, clients("single", 2) as ours:
        finalists = _finalists(raw, section)
        ours.warm_up()
        found = take_turns(
            {"push": ours.push_and_pull, "cycles": ours.cycles}
            | {f"push {sizes}": partial(raw.push_and_pull, sizes) for sizes in finalists}
            | {f"cycles {sizes}": partial(raw.cycles, sizes, CYCLES) for sizes in finalists},
            rounds,
        )
    for ours_name, key, what, goal in (
        ("push", "push", "push", 0.5),
        ("push", "pull", "pull", None),
        ("cycles", "both", "pull and push", None),
    ):
        winner = max(map(str, finalists), key=lambda name: found[f"{ours_name} {name}"][key].median)
        baseline = found[f"{ours_name} {winner}"][key]
        section.comparisons.append(
            Comparison(what, "GB/s", found[ours_name][key], f"raw TCP ({winner})", baseline, goal)
        )
    return section


def small(rounds: int) -> Section:
    section = Section(
        "4 KiB",
        f"Medians of {SMALL_REQUESTS} pulls and pushes of a model of 4 KiB, one after another on one connection, with"
        " the async client; against a handler of bare aiohttp that reads 4 KiB or answers with 4 KiB, and its client.",
    )
    with ExitStack() as stack:
        serving = stack.enter_context(server("--mode", "async", "--lr", "0.001"))
        ours = stack.enter_context(peer("tests.bench.exchanging", serving.url, "w0", "small"))
        bare = stack.enter_context(peer("tests.bench.bare_aiohttp", "serve"))
        theirs = stack.enter_context(peer("tests.bench.bare_aiohttp", "ask", str(bare.hello["port"])))

        def median_microseconds(asked: Peer) -> dict[str, float]:
            answer = asked.ask(count=SMALL_REQUESTS)
            return {direction: 1e6 * statistics.median(answer[direction]) for direction in ("push", "pull")}

        found = take_turns(
            {"ours": lambda: median_microseconds(ours), "bare": lambda: median_microseconds(theirs)}, rounds
        )
    for direction in ("push", "pull"):
        section.comparisons.append(
            Comparison(
                f"{direction}, p50",
                "us",
                found["ours"][direction],
                "bare aiohttp",
                found["bare"][direction],
                1.5,
                fewer=True,
            )
        )
    return section


def _finalists(raw: Streams, section: Section) -> list[Sizes]:
    """The sizes worth a place in the contest; the whole sweep goes into a table."""
    found = take_turns(
        {str(sizes): partial(raw.push_and_pull, sizes) for sizes in SWEEP}, SWEEP_ROUNDS, warm_up_rounds=0
    )
    rows = {name: [rates["push"].median, rates["pull"].median] for name, rates in found.items()}
    section.tables.append(Table("Raw TCP by sizes, GB/s", ["push", "pull"], rows))
    chosen: dict[Sizes, None] = {}
    for direction in ("push", "pull"):
        ranked = sorted(SWEEP, key=lambda sizes: -found[str(sizes)][direction].median)
        chosen |= dict.fromkeys(ranked[:FINALISTS])
    return list(chosen)


def _where(told: Sequence[dict[str, float]], apply_seconds: float, server_cpu_seconds: float) -> Table:
    """Where the time of a push goes, medians in milliseconds."""
    send, wait = (1e3 * statistics.median(one[key] for one in told) for key in ("send", "wait"))
    apply = 1e3 * apply_seconds
    return Table(
        "Where a push of one tensor spends its time",
        ["ms"],
        {
            "client: handing the body to the socket": [send],
            "client: from there to the reply": [wait],
            "of that, server: the step (mean)": [apply],
            "of that, the rest: last bytes, guard, publishing, reply": [wait - apply],
            "server: processor time of a push and a pull together": [1e3 * server_cpu_seconds],
        },
    )


def _wall_seconds(answers: Sequence[dict[str, float]]) -> float:
    return max(one["end"] for one in answers) - min(one["begin"] for one in answers)
