"""The decisions that a person may want to read, the newest of them remembered: the log of the live page.

The one rule: ids only rise, over a restart too, so that "what came after this id?" has one answer whoever asks. What is
remembered is bounded; one who asks too late is told what is still there.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# A screen or two of lines. One line has a few hundred bytes, so the whole ring is about 100 KB.
REMEMBERED = 256


class Kind(StrEnum):
    """What was decided, or found out. Part of the contract with those who watch."""

    JOINED = "joined"
    ENDED = "ended"
    WAITS = "waits"
    SWITCHING = "switching"
    SWITCHED = "switched"
    CHECKPOINT = "checkpoint"
    OPTIMIZER = "optimizer"
    NON_FINITE = "non-finite"
    STEP_FAILED = "step-failed"
    TOO_FEW_UPDATES = "too-few-updates"
    LATE = "late"
    UPDATE_TOO_LARGE = "update-too-large"
    QUARANTINED = "quarantined"
    RELEASED = "released"
    SAME_UPDATES = "same-updates"
    SLOW_READER = "slow-reader"
    OVER = "over"
    FINISHED = "finished"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Decision:
    """`seconds` of uptime, `time` in seconds since 1970; `detail` is words for people, `reason` the stable one.

    `mode`: of the policy that is switched to.
    """

    id: int
    seconds: float
    time: float
    kind: Kind
    group: str | None
    rank: str | None
    reason: str | None
    mode: str | None
    detail: str

    def to_fields(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


class DecisionLog:
    """`uptime`: seconds since the start; `wall`: seconds since 1970.

    Ids count from the milliseconds since 1970 at which the log was begun: fewer than a thousand decisions a second, and
    the next start's are higher.
    """

    def __init__(
        self, uptime: Callable[[], float], wall: Callable[[], float] = time.time, remembered: int = REMEMBERED
    ) -> None:
        self._uptime = uptime
        self._wall = wall
        first = int(wall() * 1000)
        self._ids = itertools.count(first + 1)
        self._ring: deque[Decision] = deque(maxlen=remembered)
        self.newest_id = first

    def add(
        self,
        kind: Kind,
        detail: str,
        *,
        group: str | None = None,
        rank: str | None = None,
        reason: str | None = None,
        mode: str | None = None,
    ) -> None:
        self.newest_id = next(self._ids)
        seconds, now = round(self._uptime(), 3), round(self._wall(), 3)
        self._ring.append(Decision(self.newest_id, seconds, now, kind, group, rank, reason, mode, detail))

    def after(self, seen_id: int | None) -> list[Decision]:
        """What came after this id and is remembered, the oldest first; all of it for None, or an id yet to come."""
        if seen_id is None or seen_id > self.newest_id:
            return list(self._ring)
        newer = itertools.takewhile(lambda decision: decision.id > seen_id, reversed(self._ring))
        return list(newer)[::-1]
