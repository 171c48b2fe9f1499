"""What is known of a run, from the messages that have come.

The one rule: it grows with the workers and with nothing else. Rates and shares are differences of what the server has
counted, over a window of time; the server's clock is the only one that counts.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leeway.protocol.ranks import DEFAULT_GROUP

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from leeway.ps.top.stream import Message

# Over how long it is measured which share of its time a worker waits, and how fast the run goes.
SHARE_SECONDS = 30.0
RATE_SECONDS = 5.0

# Below this a difference says nothing.
_LEAST_SECONDS = 0.9

# What a sample is kept of at most: one a second.
_SAMPLE_SECONDS = 1.0

# As many as a screen has lines, and points of the curve as the server keeps.
_DECISIONS = 100
_POINTS = 1024


@dataclass(frozen=True, slots=True)
class _Sample:
    """What has been counted until `seconds` of uptime. `waited_seconds`: by rank and incarnation."""

    seconds: float
    steps: int
    updates: int
    waited_seconds: Mapping[tuple[str, int], float]


class Watched:
    """One server, seen through one group: `group`, or else one that has workers, `default` before others.

    `lost_since`: when the server was heard last, in seconds since 1970, if it is not heard now; `lost_because` why.
    """

    def __init__(self, url: str, group: str | None = None) -> None:
        self.url = url
        self.status: dict[str, Any] | None = None
        self.decisions: deque[dict[str, Any]] = deque(maxlen=_DECISIONS)
        self.lost_since: float | None = None
        self.lost_because = ""
        self._wanted = group
        # Without a wish: where workers were first seen. It stays when they leave, for what is shown is theirs.
        self._found: str | None = None
        self._points: deque[dict[str, Any]] = deque(maxlen=_POINTS)
        self._samples: deque[_Sample] = deque()
        self._newest: _Sample | None = None

    # What comes in.

    def take(self, message: Message) -> None:
        """Raises `LookupError`, `TypeError` or `ValueError` for a message that is none of a Leeway server's."""
        self.lost_since = None
        match message.event:
            case "status":
                self._take_status(message.data)
            case "curve":
                self._points = deque(message.data["points"], _POINTS)
            case "point":
                self._points.append(message.data)
            case "decision":
                self.decisions.append(message.data)
            case _:
                pass  # what a newer server tells besides

    def lost(self, since: float, because: str) -> None:
        """The server is not heard since then; said again, the time stays."""
        self.lost_since = since if self.lost_since is None else self.lost_since
        self.lost_because = because

    def _take_status(self, status: dict[str, Any]) -> None:
        if self._wanted is not None and self._wanted not in status["groups"]:
            raise LookupError(f"there is no group {self._wanted!r}; this server has {', '.join(status['groups'])}")
        before = self.status or status
        if before["epoch"] != status["epoch"] or before["uptime_seconds"] > status["uptime_seconds"]:
            # The server was started anew.
            self._samples.clear()
            self._points.clear()
            self._found = None
        self.status = status
        if self._found not in status["groups"] and (found := self._one_with_workers()):
            # What was measured is another group's.
            self._samples.clear()
            self._found = found
        group = self.group
        waited = {
            (worker["rank"], worker["incarnation"]): progress.get("waiting_seconds", 0.0)
            for worker, progress in self.workers()
        }
        sample = _Sample(status["uptime_seconds"], group.get("steps", 0), group.get("updates", 0), waited)
        if not self._samples or sample.seconds - self._samples[-1].seconds >= _SAMPLE_SECONDS:
            self._samples.append(sample)
        while sample.seconds - self._samples[0].seconds > SHARE_SECONDS:
            self._samples.popleft()
        self._newest = sample

    def _one_with_workers(self) -> str | None:
        assert self.status is not None
        joined = {name for worker in self.status["workers"] for name in worker["groups"]}
        return next((name for name in (DEFAULT_GROUP, *self.status["groups"]) if name in joined), None)

    # What is shown.

    @property
    def group_name(self) -> str:
        assert self.status is not None
        groups = self.status["groups"]
        return self._wanted or self._found or (DEFAULT_GROUP if DEFAULT_GROUP in groups else str(next(iter(groups))))

    @property
    def group(self) -> dict[str, Any]:
        """The group as `/v1/status` tells it. To be asked for when there is a `status`."""
        assert self.status is not None
        group: dict[str, Any] = self.status["groups"][self.group_name]
        return group

    def workers(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """The live workers of the group, each with its progress there, in the order of their ranks."""
        assert self.status is not None
        for worker in self.status["workers"]:
            progress = worker["groups"].get(self.group_name)
            if progress is not None:
                yield worker, progress

    def awaited(self) -> dict[str, int]:
        """For whom somebody waits now, and how many do."""
        found: dict[str, int] = {}
        for _, progress in self.workers():
            for rank in progress.get("why", {}).get("waiting_for", ()):
                found[rank] = found.get(rank, 0) + 1
        return found

    def share_waiting(self, rank: str, incarnation: int) -> float | None:
        """The share of the last `SHARE_SECONDS` in which this worker waited, 0 to 1; None when that is not known."""
        newest, life = self._newest, (rank, incarnation)
        if newest is None:
            return None
        for sample in self._samples:
            if life in sample.waited_seconds:
                seconds = newest.seconds - sample.seconds
                waited = newest.waited_seconds[life] - sample.waited_seconds[life]
                return min(1.0, max(0.0, waited / seconds)) if seconds >= _LEAST_SECONDS else None
        return None

    def rates(self) -> tuple[float, float] | None:
        """Steps and updates a second, over the last `RATE_SECONDS`; None when that is not known."""
        for begin, end in ((self._recent(), self._newest), self._last_points()):
            if begin and end and end.seconds - begin.seconds >= _LEAST_SECONDS:
                seconds = end.seconds - begin.seconds
                return (end.steps - begin.steps) / seconds, (end.updates - begin.updates) / seconds
        return None

    def losses(self) -> list[tuple[float, float]]:
        """The mean loss that the workers reported, by seconds of uptime, the oldest first."""
        found = []
        for point in self._points:
            loss = point["groups"].get(self.group_name, {}).get("figures", {}).get("loss")
            if loss is not None:
                found.append((point["seconds"], loss))
        return found

    def _recent(self) -> _Sample | None:
        newest = self._newest
        if newest is None:
            return None
        return next((sample for sample in self._samples if newest.seconds - sample.seconds <= RATE_SECONDS), None)

    def _last_points(self) -> tuple[_Sample | None, _Sample | None]:
        """The last two points of the curve: of one who has just begun to watch, all that is known of the past."""
        last: Sequence[dict[str, Any]] = tuple(itertools.islice(reversed(self._points), 2))
        samples = [
            _Sample(point["seconds"], group.get("version", 0), group.get("updates", 0), {})
            for point in last
            if (group := point["groups"].get(self.group_name)) is not None
        ]
        return (samples[1], samples[0]) if len(samples) == 2 else (None, None)
