"""Those who are told what the machine has taken and decided: history, log, metrics, live page, periodic saving.

The one rule: telling never touches what is done. What a listener raises is counted, said now and then, and
ends here; the run goes on. One that must see every event to be of use (a history) stays off from then on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from leeway.ps.watching.logs import Doublings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from leeway.ps.core.effects import Effect
    from leeway.ps.core.events import Event
    from leeway.ps.watching.metrics import ServerMetrics


class Listener(Protocol):
    def __call__(self, event: Event, effects: Sequence[Effect], now: float, /) -> None:
        """The machine has taken this event at `now` and decided these effects, which are about to be carried out."""


@dataclass(frozen=True, slots=True)
class Named:
    """`delicate`: after its first failure it is told nothing any more."""

    name: str
    listener: Listener
    delicate: bool = False


class Listeners:
    """Told in this order. `metrics` counts the failures of each by its name."""

    def __init__(self, metrics: ServerMetrics, listeners: Sequence[Named] = ()) -> None:
        self._metrics = metrics
        self._listeners = {named.name: named.listener for named in listeners}
        self._delicate = {named.name for named in listeners if named.delicate}
        self._failures = Doublings()
        self._log = structlog.get_logger("ps")

    def __contains__(self, name: str) -> bool:
        return name in self._listeners

    def tell(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        for name, listener in list(self._listeners.items()):
            with self.guard(name):
                listener(event, effects, now)

    def guard(self, name: str) -> Guard:
        """For what is told beside the events: a `with` block that nothing is raised out of."""
        return Guard(self, name)

    def failed(self, name: str, error: Exception) -> None:
        off = name in self._delicate and self._listeners.pop(name, None) is not None
        # The means by which this is told may be what is broken.
        with suppress(Exception):
            self._metrics.listener_failed(name)
        if count := self._failures.count(name):
            what = "stays off until the next start" if off else "goes on"
            detail = f"{type(error).__name__}: {error}; the run is not touched; {name} {what}"
            with suppress(Exception):
                self._log.error(
                    "telling failed", listener=name, times=count, detail=detail, exc_info=_unexpected(error)
                )


class Guard:
    __slots__ = ("_listeners", "_name")

    def __init__(self, listeners: Listeners, name: str) -> None:
        self._listeners = listeners
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._listeners.failed(self._name, error)
        return True


def _unexpected(error: Exception) -> Exception | None:
    """A full disk needs no traceback; a fault of ours does."""
    return None if isinstance(error, OSError) else error
