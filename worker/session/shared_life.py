"""A worker's life at a server, shared by its sessions, one for each group. Pure.

The one rule: there is one life, and the newest counts. It is asked for by one join, whichever session carries it,
and what ends or replaces it is told to every session at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.capacity import DEFAULT_CAPACITY
from leeway.protocol.lives import Life
from leeway.protocol.membership import Join

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.protocol.membership import Joined
    from leeway.worker.session.session import Session


class SharedLife:
    """`new_session` draws an id never drawn before: joining again with the same one is the same life."""

    __slots__ = ("_join", "_new_session", "_session", "barriers", "lease_seconds", "life", "limits", "rank", "sessions",
                 "until")  # fmt: skip

    def __init__(self, rank: str, new_session: Callable[[], str]) -> None:
        self.rank = rank
        self.sessions: list[Session] = []

        # As told by the last join.
        self.life: Life | None = None
        self.lease_seconds = 0.0
        self.until: int | None = None
        self.barriers: dict[str, int] = {}
        self.limits = DEFAULT_CAPACITY

        self._new_session = new_session
        self._session = new_session()
        self._join: Join | None = None

    @property
    def going(self) -> tuple[Session, ...]:
        """Those that have not ended. The others' groups are not joined again: nobody there should wait for us."""
        return tuple(session for session in self.sessions if session.ending is None)

    @property
    def ended(self) -> bool:
        return not self.going

    def ask(self) -> Join:
        """The join to send now, for all groups: the same object until it is answered or given up."""
        if self._join is None:
            self._join = Join(self.rank, self._session, tuple(session.group for session in self.going))
        return self._join

    def is_newest(self, join: object) -> bool:
        return join is not None and join is self._join

    def give_up_join(self) -> None:
        """The attempt is over, or no longer says what is wanted: its reply will not count."""
        self._join = None

    def begin_anew(self) -> None:
        """The life is over for good: the next join begins another one."""
        self.life = None
        self._session = self._new_session()
        self._join = None

    def joined(self, joined: Joined) -> bool:
        """Take over what a join has said. Returns whether this is another life than the one before."""
        life = Life(self.rank, joined.epoch, joined.incarnation)
        # An equal life that is not taken up again is not ours: the server has forgotten the one before.
        another = not joined.resumed or life != self.life
        self.life = life
        self.lease_seconds, self.until = joined.lease_seconds, joined.until
        self.barriers, self.limits = dict(joined.barriers), joined.limits
        return another
