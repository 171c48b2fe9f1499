"""Everybody who is connected, and who has to go when there are too many.

The one rule: whoever comes is let in as long as anybody is there who asks for nothing. First goes who has never asked
for anything, then who has asked and shown no credentials where they are wanted, then who has been idle for longest; who
has shown them and waits for an answer stays. So strangers, however many, take one place from those who are known.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    from leeway.transport.http.counts import Counts

_log = structlog.get_logger("leeway.http")


class Closed(StrEnum):
    """Why a connection was closed by us; a label of the metric."""

    SILENT = "silent"
    IDLE = "idle"
    FULL = "full"
    SLOW = "slow"


class Connection(Protocol):
    """One that is there. `idle_since`: on the loop's clock; None while it is being served."""

    @property
    def idle_since(self) -> float | None: ...

    def force_close(self) -> None: ...


class Crowd:
    """`most`: the connections that there may be at once."""

    def __init__(self, most: int, counts: Counts) -> None:
        self._most = most
        self._counts = counts
        self._here: set[Connection] = set()
        # Who has not asked for anything yet, in the order in which they came.
        self._silent: dict[Connection, None] = {}
        # Who has asked and is not known, in the order in which they asked first.
        self._strangers: dict[Connection, None] = {}
        # Who was idle when last looked at, since when, the longest first. Who becomes idle later belongs behind them.
        self._idle: deque[tuple[float, Connection]] = deque()
        # How often there was one too many.
        self._times = 0

    def entered(self, connection: Connection) -> None:
        self._here.add(connection)
        self._silent[connection] = None
        if len(self._here) <= self._most:
            return
        self._times += 1
        # Told the 1st, 2nd, 4th, 8th ... time: there may be thousands a second.
        if self._times.bit_count() == 1:
            detail = (
                "the longest idle ones are closed to let others in; see whose they are (ss -tn), and if all are wanted "
                "let the process have more open files (ulimit -n, LimitNOFILE=)"
            )
            _log.warning(
                "as many connections as there can be", connections=self._most, times=self._times, detail=detail
            )
        victim = self._to_go(connection)
        if victim is None:
            self.close(connection, Closed.FULL)
        else:
            self.close(victim, Closed.SILENT if victim in self._silent else Closed.IDLE)

    def asked(self, connection: Connection) -> None:
        """It has asked for something, for the first time or again."""
        if connection in self._silent:
            del self._silent[connection]
            self._strangers[connection] = None

    def known(self, connection: Connection) -> None:
        """It has shown who it is, or need not."""
        self._strangers.pop(connection, None)

    def left(self, connection: Connection) -> None:
        """It is gone. May be said again."""
        self._here.discard(connection)
        self._silent.pop(connection, None)
        self._strangers.pop(connection, None)

    def close(self, connection: Connection, why: Closed) -> None:
        """Close it, after what has been written to it."""
        self._counts.connection_closed(why)
        self.left(connection)
        connection.force_close()

    def _to_go(self, newcomer: Connection) -> Connection | None:
        oldest = next(iter(self._silent))
        if oldest is not newcomer:
            return oldest
        stranger = next(iter(self._strangers), None)
        return stranger or self._longest_idle() or self._longest_idle(look_again=True)

    def _longest_idle(self, *, look_again: bool = False) -> Connection | None:
        if look_again:
            # The newcomer is the one who has not asked yet.
            asked = self._here - self._silent.keys()
            found = [(since, other) for other in asked if (since := other.idle_since) is not None]
            self._idle = deque(sorted(found, key=lambda row: row[0]))
        while self._idle:
            since, connection = self._idle.popleft()
            if connection in self._here and connection.idle_since == since:
                return connection
        return None
