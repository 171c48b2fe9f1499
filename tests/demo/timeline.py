"""What happened in a run, read from the history that the server wrote (`ps-serve --history`).

The one rule: every figure about time, lag and staleness comes from the server's own record of its decisions, by one
clock; how often anybody looked at the server has no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leeway.ps.watching.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from leeway.ps.watching.recording import Row


@dataclass(frozen=True, slots=True)
class Iteration:
    """A worker computes iteration `clock` from the answer to its pull until its push has arrived.

    Times are seconds since the server's start; `lag` (iterations ahead of the slowest), `index` and `count` (the
    worker's place among the live ones) are what the grant said. `loss`: what the worker reported with the push.
    """

    clock: int
    begin: float
    end: float
    lag: int
    index: int
    count: int
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """A pull was put off at `begin` and answered at `end`, in seconds since the server's start."""

    begin: float
    end: float


@dataclass(slots=True)
class Life:
    """A worker is live from `begin` to `end`, in seconds since the server's start; `end` None: to the last row.
    `reason`: why it ended, such as `left`."""

    begin: float
    end: float | None = None
    reason: str = ""


@dataclass(slots=True)
class Timeline:
    """`published`: when each version came out. `updates`: how many are in the step that made a version.
    `staleness`: of each update in a step. `iterations`, `waits` and `lives` by rank. `start`: when the last worker was
    ready, that is, through the start barrier and with its first pull answered. `end`: when the last version came out.
    """

    published: dict[int, float] = field(default_factory=dict)
    updates: dict[int, int] = field(default_factory=dict)
    staleness: list[int] = field(default_factory=list)
    iterations: dict[str, list[Iteration]] = field(default_factory=dict)
    waits: dict[str, list[Wait]] = field(default_factory=dict)
    lives: dict[str, list[Life]] = field(default_factory=dict)
    start: float = 0.0

    @property
    def end(self) -> float:
        return max(self.published.values(), default=self.start)

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def waiting_share(self) -> float:
        """Of the time from `start` to each worker's last push: the part in which its pull was put off."""
        waited = working = 0.0
        for rank, iterations in self.iterations.items():
            last = max((one.end for one in iterations), default=self.start)
            working += last - self.start
            waited += sum(max(0.0, min(wait.end, last) - max(wait.begin, self.start)) for wait in self.waits[rank])
        return waited / working if working else 0.0

    @property
    def largest_lag(self) -> int:
        """The largest lag with which an iteration was begun."""
        return max((one.lag for iterations in self.iterations.values() for one in iterations), default=0)

    @property
    def mean_staleness(self) -> float:
        return sum(self.staleness) / len(self.staleness) if self.staleness else 0.0

    @property
    def steps(self) -> int:
        """Versions that training made; the initial values are none of them."""
        return len(self.updates)

    @property
    def worker_steps(self) -> int:
        """Updates that became part of a version."""
        return sum(self.updates.values())


def read(history: Path) -> Timeline:
    """Read a history file of one start. Raises `OSError` when it cannot be read, `HistoryError` when it is none."""
    return follow(Recording(history))


def follow(rows: Iterable[Row]) -> Timeline:
    """Make a timeline of the rows of a history, in their order."""
    following = _Following()
    for row in rows:
        if "event" in row:
            following.take(row["t"], row["event"], row["effects"])
    return following.timeline


class _Following:
    def __init__(self) -> None:
        self.timeline = Timeline()
        self._ranks: dict[int, str] = {}  # who asked, by request
        self._parked: dict[int, float] = {}
        self._granted: dict[str, tuple[float, Row]] = {}  # iterations that are being computed
        self._ready: set[str] = set()

    def take(self, moment: float, event: Row, effects: Iterable[Row]) -> None:
        if event["is"] == "Published":
            self.timeline.published[event["number"]] = moment
        elif event["is"] == "Asked":
            self._asked(moment, event["request"], event["message"])
        for effect in effects:
            match effect["is"]:
                case "Parked" if effect["request"] in self._ranks:
                    self._parked[effect["request"]] = moment
                case "Answered":
                    self._answered(moment, effect["request"], effect["reply"])
                case "Apply":
                    updates = len(effect["contributions"])
                    self.timeline.updates[effect["number"]] = updates
                    self.timeline.staleness += [effect["staleness"]] * updates
                case "Began":
                    self.timeline.lives.setdefault(effect["rank"], []).append(Life(moment))
                case "Ended":
                    life = self.timeline.lives[effect["rank"]][-1]
                    life.end, life.reason = moment, effect["reason"]

    def _asked(self, moment: float, request: int, message: Row) -> None:
        if message["is"] not in ("Pull", "Push") or message["life"] is None:
            return
        rank = self._ranks[request] = message["life"]["rank"]
        self.timeline.iterations.setdefault(rank, [])
        self.timeline.waits.setdefault(rank, [])
        if message["is"] == "Push" and rank in self._granted:
            begin, granted = self._granted.pop(rank)
            place = {name: granted[name] for name in ("clock", "lag", "index", "count")}
            loss = (message["metrics"] or {}).get("loss")
            self.timeline.iterations[rank].append(Iteration(begin=begin, end=moment, loss=loss, **place))

    def _answered(self, moment: float, request: int, reply: Row) -> None:
        if reply["is"] == "Passed":
            self.timeline.start = moment
        rank = self._ranks.pop(request, None)
        if rank is None:
            return
        if request in self._parked:
            self.timeline.waits[rank].append(Wait(self._parked.pop(request), moment))
        granted = reply["pulled"] if reply["is"] == "PushPulled" else reply
        if granted["is"] == "Granted":
            self._granted[rank] = moment, granted
            if rank not in self._ready:
                self._ready.add(rank)
                self.timeline.start = moment
