"""`make kills`: two replicas of two stages each learn digits while a random stage of a random replica is killed, again
and again, and another process takes its place.

The one rule: what is found is told beside what it should be: the accuracy beside that of a run without kills, the
batches that were accepted beside those that there were, and how long a kill held up whom.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.bench import machine
from tests.worker.pipeline.replicas import Replicas, until
from tests.worker.pipeline.script import digits, task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.worker.pipeline.replicas import Server, Stage

ROOT = Path(__file__).resolve().parents[2]
MODES = {"async": ("--mode", "async"), "sync": ("--mode", "sync"), "ssp(3)": ("--mode", "ssp", "--staleness", "3")}
REPLICAS, STAGES = 2, 2
LEASE_SECONDS = 1.0
# What the first stage pauses in each of its four forward passes, so that nobody waits for the processor.
PAUSE_SECONDS = 0.003
# Of the replica that is hit, between one kill and the next.
BATCHES_BETWEEN = 12

Place = tuple[int, int]


@dataclass(slots=True)
class Kill:
    """Of a stage of a replica. Seconds are those of the server's history: when it was killed, when the next process
    was started, and when the replica's next update was accepted."""

    rank: int
    stage: int
    at: float
    started: float
    back: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """`batches`: of each replica, those that the server has accepted, in that order; `moments`: when. `committed`: what
    its stages said in the end."""

    mode: str
    kills: Sequence[Kill]
    accuracy: float
    committed: Sequence[int]
    batches: Sequence[Sequence[int]]
    moments: Sequence[Sequence[float]]

    @property
    def exact(self) -> bool:
        """Whether each batch was accepted once, in order, and the stages know how many."""
        return [list(range(count)) for count in self.committed] == [list(found) for found in self.batches]

    def others(self) -> tuple[float, float]:
        """Of the replica that was not hit: its speed while the other one was away over that at other times, and the
        longest time between two of its updates meanwhile, in seconds.
        """
        steps, seconds, longest = [0, 0], [0.0, 0.0], 0.0
        for rank, moments in enumerate(self.moments):
            for before, after in itertools.pairwise(moments):
                under_way = [kill for kill in self.kills if kill.at < after and before < kill.back]
                if any(kill.rank == rank for kill in under_way):
                    continue
                away = bool(under_way)
                steps[away] += 1
                seconds[away] += after - before
                longest = max(longest, after - before) if away else longest
        return (steps[1] / seconds[1]) / (steps[0] / seconds[0]), longest

    def back_seconds(self) -> list[float]:
        """From the start of the new process to the replica's next update."""
        return sorted(kill.back - kill.started for kill in self.kills)


class Replaced:
    """All processes that have been, by place."""

    def __init__(self, replicas: Replicas, server: Server) -> None:
        self._replicas, self._server = replicas, server
        self._stop = replicas.folder / "stop"
        self.processes: dict[Place, list[Stage]] = {}
        for place in itertools.product(range(REPLICAS), range(STAGES)):
            self.start(place)

    def start(self, place: Place) -> None:
        rank, stage = place
        settings = {"model": "digits", "share": [rank, REPLICAS], "pace_seconds": PAUSE_SECONDS}
        settings |= {"arguments": {"cut": "3,3"}, "stop": str(self._stop)}
        made = self._replicas.stage(self._server.url, stage, STAGES, rank=f"w{rank}", **settings)
        self.processes.setdefault(place, []).append(made)

    def trained(self, rank: int) -> int:
        """Batches, as far as its stages have told."""
        told = [made for place, found in self.processes.items() if place[0] == rank for made in found]
        return max((made.steps[-1]["place"] + 1 for made in told if made.steps), default=0)

    def until_trained(self, rank: int, batches: int) -> None:
        until(lambda: self.trained(rank) >= batches, lambda: f"w{rank} stands still at {self.trained(rank)}")

    def hit(self, place: Place, away_seconds: float) -> tuple[float, float]:
        """Kill it, and start another. The moments of both."""
        self.processes[place][-1].fork.kill()
        at = time.time()
        time.sleep(away_seconds)
        self.start(place)
        return at, time.time()

    def end(self) -> list[int]:
        """Have the run end, and wait; what each replica has committed."""
        self._stop.touch()
        committed = {place: found[-1].ended()["committed"] for place, found in self.processes.items()}
        counts = [{committed[rank, stage] for stage in range(STAGES)} for rank in range(REPLICAS)]
        assert all(len(count) == 1 for count in counts), f"stages of one replica do not agree: {committed}"
        return [min(count) for count in counts]


def run(
    folder: Path, mode: str, kills: int, *, seed: int, away_seconds: float = 0.0, batches: int = BATCHES_BETWEEN
) -> Run:
    """Train for as long as all kills take, and as many `batches` of each replica at least. `away_seconds`: until a new
    process is started, at most.
    """
    draw = random.Random(seed)
    history, hits = folder / "history.jsonl", []
    with Replicas(folder) as replicas:
        flags = (*MODES[mode], "--optimizer", "sgd", "--lr", "0.2", "--lease", LEASE_SECONDS)
        flags += ("--until-metric", "stop>=1")
        server = replicas.serve(*flags, "--history", history, "--workers", REPLICAS)
        running = Replaced(replicas, server)
        for _ in range(kills):
            place = draw.randrange(REPLICAS), draw.randrange(STAGES)
            running.until_trained(place[0], running.trained(place[0]) + draw.randrange(2, BATCHES_BETWEEN))
            hits.append((place, running.hit(place, draw.uniform(0.0, away_seconds))))
        for rank in range(REPLICAS):
            running.until_trained(rank, max(batches, running.trained(rank) + BATCHES_BETWEEN))
        committed = running.end()
        values = server.saved()
    return _found(mode, hits, accuracy(values), committed, history)


def accuracy(values: dict[str, torch.Tensor]) -> float:
    model = digits()
    model.load_state_dict(values)
    return task().evaluate(model, torch.device("cpu"))["accuracy"]


def _found(
    mode: str, hits: list[tuple[Place, tuple[float, float]]], accurate: float, committed: list[int], history: Path
) -> Run:
    started, *rows = map(json.loads, history.read_text().splitlines())
    batches: list[list[int]] = [[] for _ in range(REPLICAS)]
    moments: list[list[float]] = [[] for _ in range(REPLICAS)]
    for row in rows:
        for effect in row["effects"]:
            if effect["is"] == "Accepted":
                rank = int(effect["rank"].removeprefix("w"))
                batches[rank].append(int(row["event"]["message"]["metrics"]["place"]))
                moments[rank].append(row["t"])
    kills = [Kill(*place, at - started["time"], then - started["time"]) for place, (at, then) in hits]
    for kill in kills:
        kill.back = next((moment for moment in moments[kill.rank] if moment > kill.started), kill.started)
    return Run(mode, kills, accurate, committed, batches, moments)


# The report.


def line(alone: Run, hit: Run) -> str:
    speed, longest = hit.others()
    back = hit.back_seconds()
    exact = "yes" if hit.exact and alone.exact else "NO"
    accurate = f"{hit.accuracy:.1%} | {alone.accuracy:.1%}"
    times = f"{speed:.0%} | {longest:.2f} s | {statistics.median(back):.2f} s | {back[-1]:.2f} s"
    return f"| `{hit.mode}` | {len(hit.kills)} | {exact} | {sum(hit.committed)} | {accurate} | {times} |"


_HEAD = (
    "| mode | kills | exact | updates | accuracy | without kills | speed of the other | longest wait of the other"
    " | back, median | longest |"
)


def report(rows: Sequence[str], seed: int, away_seconds: float, seconds: float) -> str:
    described = machine.describe()
    processor, cores = described["processor"], described["cores"]
    return f"""# Stages that are killed, {datetime.now(UTC):%Y-%m-%d}

`make kills` on {processor}, {cores} cores, in {seconds:.0f} s: two replicas of two stages
learn digits; a random stage of a random replica is killed (seed {seed}), and 0 to {away_seconds:g} s later another
process takes its place. The lease is {LEASE_SECONDS:g} s.

- *exact*: each batch of each replica was accepted once, in order, and its stages know how many.
- *speed of the other*: updates per second of the replica that was not hit, while the other one was away, over those at
  other times. `async`: at least 95 %.
- *longest wait of the other*: between two of its updates meanwhile. `sync` and `ssp`: one lease for the dead one, and
  then the first iteration of the next life, as for any worker that is slow.
- *back*: from the start of the new process, imports made already, to the replica's next update. At most two leases.

{_HEAD}
{"|---" * _HEAD.count(" | ")}|---|
{chr(10).join(rows)}
"""


def main() -> None:
    reading = argparse.ArgumentParser(prog="kills", description=__doc__.partition("\n")[0])
    reading.add_argument("--kills", type=int, default=50, metavar="N", help="in each mode")
    reading.add_argument("--mode", choices=MODES, action="append", help="this one alone; again: more")
    reading.add_argument("--seed", type=int, default=1)
    reading.add_argument("--away", type=float, default=2 * LEASE_SECONDS, metavar="SECONDS", help="at most")
    reading.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", metavar="FOLDER")
    options = reading.parse_args()
    began, rows = time.monotonic(), []
    for mode in options.mode or MODES:
        with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryDirectory() as hit:
            found = run(Path(hit), mode, options.kills, seed=options.seed, away_seconds=options.away)
            without = run(Path(alone), mode, 0, seed=options.seed, batches=min(found.committed))
            rows.append(line(without, found))
        print(rows[-1], flush=True)
    page = options.out / f"{datetime.now(UTC):%Y-%m-%d-%H%M}-kills.md"
    page.write_text(report(rows, options.seed, options.away, time.monotonic() - began))
    print(f"written: {page}")


if __name__ == "__main__":
    main()
