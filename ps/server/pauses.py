"""Time in which the server did not run: its process was stopped, its machine suspended, its loop busy with one thing.

The one rule: what a pause takes away is given back, and no more. Whatever the pauses, a turn of the ticker counts as
one period at least, so the dead are evicted after as many turns as their lease has periods, and one.

It is measured on the clock that the deadlines go by, CLOCK_MONOTONIC, by how late things are that should have happened
long ago. While a process is stopped (SIGSTOP, a debugger, a frozen container, a virtual machine that is moved) that
clock goes on, and the pause is found. While a Linux machine sleeps the clock stands still, and the deadlines with it:
then there is nothing to be given back, and nothing is found.
"""

from __future__ import annotations

# Leases and waits run out at this resolution; the work of a tick is a few microseconds a worker.
TICK_SECONDS = 0.1

# Being late by more than this is a pause. Below the resolution of the deadlines themselves nobody can tell; and a
# healthy loop is late by a few milliseconds.
TOLERATED_SECONDS = TICK_SECONDS


class Pauses:
    """Tell it of each turn of the ticker, and of each event. Before the first turn it finds nothing. In seconds."""

    def __init__(self) -> None:
        self._turn_at: float | None = None
        self._looked_at = 0.0
        self._found_since = 0.0
        self.recent = False
        """Whether there was a pause between the last two turns."""

    def look(self, now: float) -> float:
        """An event is about to be taken: for how long did nothing run before it? 0: there was no pause.

        While the loop runs there is a turn of the ticker in each period; so one that is missing was missed.
        """
        if self._turn_at is None:
            return 0.0
        found = _late(now - self._looked_at)
        self._looked_at = now
        self._found_since += found
        return found

    def turn(self, now: float) -> float:
        """The ticker has its turn: what pause came before it, beside what was found since its last one?

        It is late also when the loop has gone from event to event without a pause: then those who wait for their turn
        in the sockets have not been heard.
        """
        found = 0.0
        if self._turn_at is not None:
            found = _late(now - self._turn_at - self._found_since)
        self.recent = self._found_since + found > 0
        self._turn_at = self._looked_at = now
        self._found_since = 0.0
        return found


def _late(seconds: float) -> float:
    late = seconds - TICK_SECONDS
    return late if late > TOLERATED_SECONDS else 0.0
