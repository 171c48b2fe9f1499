"""One run: what is to be run, and what was seen of it.

The one rule: what was not measured is None, never 0; and a run that broke off says so and keeps what it has.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import median_high
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.load.scenario import Scenario
    from tests.load.stragglers import Straggler
    from tests.load.systems import System

# On each side of a snapshot.
NEIGHBOURS = 2


@dataclass(frozen=True, slots=True)
class Trial:
    """A run of `seconds`, from the moment at which all workers are there."""

    scenario: Scenario
    system: System
    straggler: Straggler
    seed: int
    learning_rate: float
    seconds: float

    @property
    def title(self) -> str:
        return f"{self.scenario.title}: {self.system}, {self.straggler.title}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Point:
    """Test accuracy (0 to 1) of the parameters of a moment, when so many updates of workers were in them."""

    seconds: float
    updates: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts[i]`: how often a value was at most `bounds[i]` and above the bound before; the last: above them all.

    `total`: the sum of all values, where it is known.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float | None = None

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        return None if self.total is None or not self.count else self.total / self.count

    def quantile(self, share: float) -> float | None:
        """The smallest bound that holds this share of the values; infinity: none does. None without values."""
        for bound, up_to in zip(self.bounds, accumulate(self.counts), strict=False):
            if self.count and up_to >= share * self.count:
                return bound
        return float("inf") if self.count else None

    @property
    def shares(self) -> list[float]:
        return [one / self.count for one in self.counts] if self.count else []

    def __add__(self, other: Histogram) -> Histogram:
        assert self.bounds == other.bounds
        total = None if self.total is None or other.total is None else self.total + other.total
        counts = tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return Histogram(self.bounds, counts, total)

    def since(self, before: Histogram) -> Histogram:
        """What has come since an earlier reading."""
        negative = Histogram(before.bounds, tuple(-one for one in before.counts), None)
        total = None if self.total is None or before.total is None else self.total - before.total
        return Histogram(self.bounds, (self + negative).counts, total)

    def to_fields(self) -> dict[str, Any]:
        return {"bounds": self.bounds, "counts": self.counts, "mean": self.mean}


@dataclass(frozen=True, slots=True)
class Costs:
    """What a run took. Bytes are of bodies between workers and server (`computed`: from the algorithm, not counted).

    Processor seconds and own memory (that no other process shares) of the server, and of all workers together.
    """

    network_bytes: float | None = None
    network_is_computed: bool = False
    server_cpu_seconds: float | None = None
    worker_cpu_seconds: float | None = None
    server_memory_bytes: float | None = None
    worker_memory_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Parameters of a moment as a safetensors file, not judged yet."""

    seconds: float
    updates: float
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was seen of a run in the `seconds` in which it was watched.

    `steps`: new versions; `updates`: those of workers. `waiting`: by rank, the share of its time in which it waited.
    `paces`: by rank, iterations per second in the second half. `failure`: why it broke off, or None.
    """

    trial: Trial
    seconds: float
    points: tuple[Point, ...] = ()
    steps: int = 0
    updates: int = 0
    waiting: Mapping[str, float] = field(default_factory=dict)
    paces: Mapping[str, float] = field(default_factory=dict)
    staleness: Histogram | None = None
    lag: Histogram | None = None
    costs: Costs = Costs()
    failure: str | None = None

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds if self.seconds else 0.0

    @property
    def updates_per_second(self) -> float:
        return self.updates / self.seconds if self.seconds else 0.0

    @property
    def waiting_share(self) -> float | None:
        """The mean over the ranks."""
        return sum(self.waiting.values()) / len(self.waiting) if self.waiting else None

    def per_update(self, what: float | None) -> float | None:
        return what / self.updates if what is not None and self.updates else None

    @property
    def steady(self) -> tuple[Point, ...]:
        """The snapshots without lucky ones: an accuracy above the median of the snapshot and its neighbours is that.

        The accuracy of single versions jumps up and down.
        """
        found = []
        for index, point in enumerate(self.points):
            near = self.points[max(0, index - NEIGHBOURS) : index + NEIGHBOURS + 1]
            found.append(replace(point, accuracy=min(point.accuracy, median_high(one.accuracy for one in near))))
        return tuple(found)

    @property
    def best_accuracy(self) -> float | None:
        """Of a snapshot, and not by luck."""
        return max((point.accuracy for point in self.steady), default=None)

    @property
    def at_target(self) -> Point | None:
        """The first snapshot that has the target accuracy, and not by luck; None: none had."""
        target = self.trial.scenario.target_accuracy
        return next((point for point in self.steady if point.accuracy >= target), None)

    @property
    def seconds_to_target(self) -> float | None:
        return self.at_target.seconds if self.at_target else None

    @property
    def updates_to_target(self) -> float | None:
        return self.at_target.updates if self.at_target else None

    def accuracy_at(self, *, seconds: float | None = None, updates: float | None = None) -> float | None:
        """Between the two snapshots around a moment, or a number of updates; None when the run did not get there."""
        if updates is None:
            assert seconds is not None
            return between([(point.seconds, point.accuracy) for point in self.points], seconds)
        return between([(point.updates, point.accuracy) for point in self.points], updates)

    def to_fields(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "scenario": self.trial.scenario.name,
            "system": str(self.trial.system),
            "straggler": self.trial.straggler.kind,
            "seed": self.trial.seed,
            "learning_rate": self.trial.learning_rate,
            "failure": self.failure,
            "seconds": round(self.seconds, 3),
            "steps": self.steps,
            "updates": self.updates,
            "seconds_to_target": self.seconds_to_target,
            "updates_to_target": self.updates_to_target,
            "best_accuracy": self.best_accuracy,
            "waiting": {rank: round(share, 4) for rank, share in self.waiting.items()},
            "iterations_per_second": {rank: round(pace, 2) for rank, pace in self.paces.items()},
            "staleness": self.staleness.to_fields() if self.staleness else None,
            "lag": self.lag.to_fields() if self.lag else None,
            "network_bytes": self.costs.network_bytes,
            "network_bytes_are_computed": self.costs.network_is_computed,
            "server_cpu_seconds": self.costs.server_cpu_seconds,
            "worker_cpu_seconds": self.costs.worker_cpu_seconds,
            "server_memory_bytes": self.costs.server_memory_bytes,
            "worker_memory_bytes": self.costs.worker_memory_bytes,
            "points": [[round(one.seconds, 3), round(one.updates, 1), round(one.accuracy, 5)] for one in self.points],
        }


def between(pairs: Sequence[tuple[float, float]], place: float) -> float | None:
    """The value at a place, on straight lines through the pairs, which are in order; None beyond the last."""
    before: tuple[float, float] | None = None
    for at, value in pairs:
        if at >= place:
            if before is None or at == before[0]:
                return value
            share = (place - before[0]) / (at - before[0])
            return before[1] + share * (value - before[1])
        before = at, value
    return None
