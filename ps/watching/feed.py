"""What those who watch a run are told: its state, the curve of its progress, and the decisions taken.

The one rule: a viewer costs nothing but its place. There is no queue for anybody: state is written out once for all who
watch, and each viewer takes what is newest when it is ready to. One that is slow skips states, and costs no memory.

What grows with what: a state is O(workers) to make and to hold, and is made only while somebody watches, at most once
in `max(0.25 s, workers x 1 ms)`. A point of the curve is O(workers) once a second. The curve and the decisions that are
remembered are bounded by constants, whatever the length of the run and the number of workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leeway.errors import WireError
from leeway.protocol import limits
from leeway.protocol.codes import Code
from leeway.ps.core.events import Tick
from leeway.ps.watching.curve import Curve, Point
from leeway.ps.watching.decision_log import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from leeway.ps.core.effects import Effect
    from leeway.ps.core.events import Event
    from leeway.ps.core.machine import Machine
    from leeway.ps.watching.curve import Progress
    from leeway.ps.watching.decision_log import DecisionLog

# Fast enough for an eye. With a thousand workers a state takes milliseconds to make: it is then made once a second.
LEAST_SECONDS = 0.25
LEAST_SECONDS_PER_WORKER = 0.001

# After this long the state is told anew though nothing has happened: times in it go on, and silence is a lost server.
MOST_SECONDS = 2.0

POINT_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Viewer:
    """What one viewer has been given: the numbers of the last state and point, and the last decision's id."""

    decision_id: int | None
    state: int = 0
    point: int | None = None


class Feed:
    """`document` makes the state of `/v1/status`; `progress` each group's; `uptime` is in seconds.

    It is told of every event, and remembers that the state may have changed.
    """

    def __init__(
        self,
        machine: Machine,
        document: Callable[[], dict[str, Any]],
        progress: Callable[[], Mapping[str, Progress]],
        decisions: DecisionLog,
        uptime: Callable[[], float],
    ) -> None:
        self._machine = machine
        self._document = document
        self._progress = progress
        self._decisions = decisions
        self._uptime = uptime
        self._changes = 0
        self.stopped = False
        self._viewers: set[Viewer] = set()
        self._news = asyncio.Event()
        self._announced: tuple[int, int, int] | None = None
        # The newest state as a message, its number, when it was made, and of what.
        self._state = b""
        self._states = 0
        self._state_at = -math.inf
        self._state_of: tuple[int, int] | None = None
        # The curve, the number of its newest point, and the newest point as a message; the curve's when asked for.
        self._curve = Curve()
        self._points = 0
        self._point_due = 0.0
        self._point = b""
        self._curve_message: bytes | None = None

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def took(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        """The machine has taken an event."""
        self._changes += not isinstance(event, Tick) or bool(effects)

    def tick(self) -> None:
        """Time has passed."""
        now = self._uptime()
        if now >= self._point_due:
            self._point_due = now + POINT_SECONDS
            self._take_point(now)
        if self._viewers:
            changed = self._state_of != self._marks()
            if self._state_is_older_than(self._least_seconds() if changed else MOST_SECONDS, now):
                self._make_state(now)
        self._announce()

    def stop(self) -> None:
        """Tell everybody that the server stops; after that there is nothing more to tell."""
        if self.stopped:
            return
        self.stopped = True
        self._decisions.add(Kind.STOPPING, "the server stops")
        if self._viewers:
            self._make_state(self._uptime())
        self._announce()

    @contextlib.contextmanager
    def watching(self, seen_id: int | None) -> Iterator[Viewer]:
        """A place for a viewer that has seen the decisions up to this id. Raises `WireError` when there is none."""
        if len(self._viewers) >= limits.MAX_VIEWERS:
            detail = f"{limits.MAX_VIEWERS} are watching already, which is the most; close one of them"
            raise WireError(Code.BUSY, detail)
        viewer = Viewer(seen_id)
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    async def next_for(self, viewer: Viewer) -> bytes | None:
        """All that is new to this viewer, as messages, as soon as there is something; None when the server has stopped.

        The first time it is the state, the curve so far, and the decisions remembered.
        """
        now = self._uptime()
        if viewer.state == 0 and self._state_is_older_than(self._least_seconds(), now):
            self._make_state(now)
        while not (news := self._new_to(viewer)):
            if self.stopped:
                return None
            await self._news.wait()
        return news

    def _new_to(self, viewer: Viewer) -> bytes:
        news = []
        if viewer.state != self._states:
            viewer.state = self._states
            news.append(self._state)
        if viewer.point is None:
            news.append(self._whole_curve())
        elif viewer.point != self._points:
            news.append(self._point)
        viewer.point = self._points
        decisions = self._decisions.after(viewer.decision_id)
        news += [_message("decision", decision.to_fields(), decision.id) for decision in decisions]
        viewer.decision_id = self._decisions.newest_id
        return b"".join(news)

    def _announce(self) -> None:
        """Wake the viewers if there is something that none of them has."""
        there_is = (self._states, self._points, self._decisions.newest_id)
        if there_is != self._announced:
            self._announced = there_is
            self._news.set()
            self._news.clear()

    # The state.

    def _marks(self) -> tuple[int, int]:
        return self._changes, self._decisions.newest_id

    def _least_seconds(self) -> float:
        return max(LEAST_SECONDS, LEAST_SECONDS_PER_WORKER * len(self._machine.membership.live()))

    def _state_is_older_than(self, seconds: float, now: float) -> bool:
        return now - self._state_at >= seconds

    def _make_state(self, now: float) -> None:
        self._state_at, self._state_of = now, self._marks()
        self._states += 1
        self._state = _message("status", self._document())

    # The curve.

    def _take_point(self, now: float) -> None:
        """While somebody trains, standing still is progress of zero; a server without workers adds nothing."""
        groups = self._progress()
        newest = self._curve.newest
        if self._machine.membership.live() or (newest is not None and groups != newest.groups):
            point = Point(round(now, 3), groups)
            self._curve.add(point)
            self._points += 1
            self._point = _message("point", point.to_fields())
            self._curve_message = None

    def _whole_curve(self) -> bytes:
        if self._curve_message is None:
            points = [point.to_fields() for point in self._curve.points()]
            self._curve_message = _message("curve", {"points": points})
        return self._curve_message


def _message(event: str, data: dict[str, Any], number: int | None = None) -> bytes:
    """A message of the text/event-stream format (HTML Living Standard, section 9.2); its data is one line."""
    try:
        line = json.dumps(data, separators=(",", ":"), allow_nan=False)
    except ValueError:
        line = json.dumps(_finite(data), separators=(",", ":"))
    numbered = "" if number is None else f"id: {number}\n"
    return f"event: {event}\n{numbered}data: {line}\n\n".encode("ascii")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are told as null."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: _finite(item) for name, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
