"""How far a life is in a group, and what became of its last push: all that exactly-once has to remember.

Invariant: one record a life and group, so the memory is bounded by the number of workers, not by time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from leeway.protocol.pushes import Disposition, Pushed
from leeway.protocol.reasons import Reason

if TYPE_CHECKING:
    from leeway.protocol.pulls import Granted
    from leeway.protocol.pushes import Push, UpdateKind

# How many different answers to the pull of one iteration may be on their way at once: a client asks again after a
# lost reply, and each answer may hold another version. Older ones can no longer be pushed from.
REMEMBERED_GRANTS = 16


class Part(NamedTuple):
    """A part of an update that is not whole yet: who brought it, and its norm, None where nobody has measured it."""

    request: int
    push: Push
    norm: float | None = None


@dataclass(slots=True, eq=False)
class Record:
    """The last accepted push. `disposition` None: still being applied; `waiters` are told when it falls.

    `step_failed`: it was held, and the step of its round failed; `too_few`: it was held, and its round had too few
    updates for a step. Told with the grants of the next iteration. `next_clock`: it was late, and the worker was told
    to go on from there.
    """

    clock: int
    parts: int
    reason: Reason
    disposition: Disposition | None = None
    version: int | None = None
    staleness: int | None = None
    step_failed: bool = False
    too_few: bool = False
    next_clock: int | None = None
    waiters: list[tuple[int, Push]] = field(default_factory=list)

    def settle(self, *, failed: bool) -> None:
        """The version of an update on arrival is published, with the update in it or, its step having failed, not."""
        if failed:
            self.disposition, self.reason = Disposition.SKIPPED, Reason.STEP_FAILED
            self.version = self.staleness = None
        else:
            self.disposition = Disposition.APPLIED

    def to_reply(self, reason: Reason | None = None) -> Pushed:
        assert self.disposition is not None
        # That the step failed is news to whoever asks again because the first answer was lost.
        reason = self.reason if self.reason is Reason.STEP_FAILED else reason or self.reason
        return Pushed(self.clock, self.disposition, reason, self.version, self.staleness, self.next_clock)


@dataclass(slots=True, eq=False)
class Progress:
    """How far an incarnation is in one group.

    `clock`: the index of its next iteration. `passed`: it was moved there from this one, whose round had closed before
    it pulled; until it has pushed again it may not have heard of that. `grants`: the (version, round) pairs its pull of
    that iteration was answered with; empty = not granted. `owed`: the newest version that contains an effective push of
    its own; no pull is answered with less (read my writes). `kind`: of its last update, skips aside. `staged`: parts of
    the push under way.

    A replica's iteration is granted once, for all its stages: its `grants` are one at most, and `granted` is the reply
    that all of them get, with the same version and the same share of the data.
    """

    clock: int
    passed: int | None = None
    grants: deque[tuple[int, int | None]] = field(default_factory=lambda: deque(maxlen=REMEMBERED_GRANTS))
    granted: Granted | None = None
    granted_at: float = 0.0
    owed: int = 0
    record: Record | None = None
    kind: UpdateKind | None = None
    staged: dict[int, Part] = field(default_factory=dict)

    @property
    def computing(self) -> bool:
        """The pull of this iteration is answered, and its push has not been accepted yet."""
        return bool(self.grants) and (self.record is None or self.record.disposition is not None)

    def has_passed(self, clock: int) -> bool:
        """The worker was moved on from this iteration, and may not have heard of it."""
        return self.passed is not None and self.passed <= clock < self.clock

    def go_on(self, clock: int) -> None:
        """To this iteration, the one before having had its end."""
        self.clock = clock
        self.passed = None
        self.take_back()

    def move(self, clock: int) -> None:
        """To this iteration, those before it having gone by without this worker."""
        self.passed = self.clock if self.passed is None else self.passed
        self.clock = clock
        self.take_back()

    def take_back(self) -> None:
        """The grant: this iteration is to be pulled anew, or is over."""
        self.grants.clear()
        self.granted = None

    def missing(self, parts: int) -> tuple[int, ...]:
        return tuple(part for part in range(parts) if part not in self.staged)
