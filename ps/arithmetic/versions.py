"""The published versions of one group: immutable bodies that readers hold on to for as long as they need.

The one rule: a body that anybody may still read is never written to. There is no count of readers to get
wrong: a version is in use while any reference to its body, or to a slice of it, exists anywhere.
"""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leeway.protocol.spans import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from leeway.transport.memory.pool import Pool

# The current one, one that is being written, and two for readers who are not done: with fewer the applier
# waits for every slow reader, with more a slow reader costs memory without bound.
MAX_LIVE_VERSIONS = 4


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One published state. `body` is read-only and lies as `layout` says; slices of it keep the version
    alive.

    Number 0 is the empty state before the group has any parameter. `non_finite`: the trainable tensors that hold a NaN
    or an infinity.
    """

    number: int
    layout: Layout
    body: memoryview
    non_finite: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"v{self.number}: {self.layout}"


class VersionStore:
    """Memory and order of a group's versions. At most `limit` bodies exist at a time, one in writing
    included.

    `fresh` belongs to the applier thread; everything else may be asked from any thread. `on_released` is
    called, without arguments, each time a body's memory has become free, from whichever thread dropped the
    last reference: it must be quick, must not raise, and best only schedules something.
    """

    def __init__(
        self, pool: Pool, on_released: Callable[[], None] | None = None, limit: int = MAX_LIVE_VERSIONS
    ) -> None:
        assert limit >= 2, "a version is written while another is current"
        self._pool = pool
        self.on_released = on_released
        self._limit = limit
        # Bodies that exist, by a token of their own: a step that failed may leave its number to another.
        self._live: dict[int, int] = {}
        self._tokens = itertools.count()
        self._current = Snapshot(0, Layout.of(()), memoryview(b""))
        # Superseded or not, these stay for the stages of replicas that have not asked yet, and count apart.
        self._kept: dict[int, Snapshot] = {}

    @property
    def current(self) -> Snapshot:
        """The newest published version. Whoever keeps it, its body or a slice of it pins its memory."""
        return self._current

    @property
    def live(self) -> int:
        """How many bodies exist: being written, current, or still referred to."""
        return len(self._live)

    @property
    def room(self) -> bool:
        """Whether another version can be written now. If not, slow readers have pinned all: see `pinned`."""
        apart = {id(snapshot.body.obj) for snapshot in self._kept.values()} - {id(self._current.body.obj)}
        return len(self._live) - len(apart) < self._limit

    def keep(self, numbers: Iterable[int]) -> None:
        """Keep these too, of which one that was not kept before is the current one; none is let go."""
        new = [number for number in numbers if number not in self._kept]
        assert all(number == self._current.number for number in new), f"keep {new}, and the newest is {self._current}"
        # Another thread asks for `room`: the old mapping stays as it was.
        self._kept = self._kept | {number: self._current for number in new}

    def keep_only(self, numbers: Iterable[int]) -> None:
        """Let go of all that are kept and not among these."""
        wanted = frozenset(numbers)
        self._kept = {number: snapshot for number, snapshot in self._kept.items() if number in wanted}

    def of_number(self, number: int) -> Snapshot:
        """The current one, or one that is kept."""
        return self._current if number == self._current.number else self._kept[number]

    def pinned(self) -> tuple[int, ...]:
        """The numbers of superseded versions that somebody still reads, the oldest first."""
        current = self._current.number
        return tuple(sorted(number for number in list(self._live.values()) if number < current))

    def fresh(self, number: int, nbytes: int) -> memoryview:
        """A writable body for the version `number`, with undefined contents. There must be `room`.

        Dropped without `publish`, it is free again.
        """
        assert self.room, "every version is pinned; ask `room` first"
        body = self._pool.take(nbytes)
        token = next(self._tokens)
        self._live[token] = number
        weakref.finalize(body.obj, self._release, token).atexit = False
        return body

    def publish(self, snapshot: Snapshot) -> None:
        """Make a version the current one. Numbers only grow."""
        assert snapshot.number > self._current.number, "versions go forward"
        assert snapshot.body.readonly, "what is published is never written to again"
        self._current = snapshot

    def _release(self, token: int) -> None:
        del self._live[token]
        if self.on_released is not None:
            self.on_released()
