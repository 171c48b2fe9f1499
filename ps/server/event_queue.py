"""What has happened and is still to be taken.

The one rule: one event at a time, in their order. One that comes up while another is being taken waits its turn.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.ps.core.events import Event


class EventQueue:
    """`take` is called with each event. What it raises is a fault of ours: `fail` gets it, with what was being done."""

    def __init__(self, take: Callable[[Event], None], fail: Callable[[str, Exception], None]) -> None:
        self._take = take
        self._fail = fail
        self._events: deque[Event] = deque()
        self._taking = False
        self._closed = False

    def put(self, event: Event) -> None:
        """Take an event, now or after the one being taken. It never raises."""
        if self._closed:
            return
        self._events.append(event)
        if self._taking:
            return
        self._taking = True
        try:
            while self._events:
                event = self._events.popleft()
                self._take(event)
        except Exception as error:
            self._fail(f"taking '{event}'", error)
        finally:
            self._taking = False

    def close(self) -> None:
        """Take nothing any more."""
        self._closed = True
        self._events.clear()
