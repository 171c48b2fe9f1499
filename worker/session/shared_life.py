"""A worker's life at a server, shared by its conversations, one for each group. Pure.

The one rule: there is one life, and the newest counts. It is asked for by one join, whichever conversation carries it,
and what begins, ends or replaces it is told to every conversation at once.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol.capacity import DEFAULT_CAPACITY
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Join
from leeway.protocol.pushes import last_pushes
from leeway.worker.session.refusals import REACTIONS, Reaction
from leeway.worker.session.states import State
from leeway.worker.session.updates import Recall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leeway.protocol.membership import Joined
    from leeway.protocol.replicas import Place, Replica
    from leeway.worker.session.conversation import Conversation


class SharedLife:
    """`new_session` draws an id never drawn before: joining again with the same one is the same life.
    `one_after_another`: this worker never asks for one thing while it waits for another (`Join`). `wait_seconds`: how
    long the server may park the join of a stage.
    """

    __slots__ = ("_check", "_epoch", "_join", "_named", "_new_session", "_notes", "_revision", "_session", "barriers",
                 "conversations", "create", "ended_by", "lease_seconds", "life", "limits", "one_after_another",
                 "place", "rank", "replica", "until", "wait_seconds")  # fmt: skip

    def __init__(
        self,
        rank: str,
        new_session: Callable[[], str],
        *,
        one_after_another: bool = False,
        wait_seconds: float | None = None,
    ) -> None:
        self.rank = rank
        self.one_after_another = one_after_another
        self.conversations: list[Conversation] = []
        # The groups that are made where they are not there yet.
        self.create: tuple[str, ...] = ()

        # The place of this process in a replica, None: it is a worker by itself; and what it tells the other stages
        # with each join, as it is then.
        self.place: Place | None = None
        self._notes: Callable[[], str] = str
        self._check: Callable[[Joined], None] | None = None
        self.wait_seconds = wait_seconds

        # As told by the last join. `barriers`: how often each named one has been passed.
        self.life: Life | None = None
        self.lease_seconds = 0.0
        self.until: int | None = None
        self.barriers: dict[str, int] = {}
        self.limits = DEFAULT_CAPACITY
        self.replica: Replica | None = None
        # Why the life before this one is over, where the server has said so.
        self.ended_by: Code | None = None

        self._new_session = new_session
        self._session = new_session()
        self._join: Join | None = None
        self._epoch: int | None = None
        # The groups that the last join has named, and how often it were others than before.
        self._named: tuple[str, ...] = ()
        self._revision = 0

    @property
    def going(self) -> tuple[Conversation, ...]:
        """Those that have not ended. The others' groups are not joined again: nobody there should wait for us."""
        return tuple(conversation for conversation in self.conversations if conversation.ending is None)

    @property
    def ended(self) -> bool:
        return not self.going

    @property
    def joining(self) -> bool:
        """Whether a life is to be asked for, or asked back, before anything else."""
        return any(conversation.state is State.JOINING for conversation in self.going)

    # It is asked for.

    def ask(self) -> Join:
        """The join to send now, for all groups: the same object until it is answered or given up."""
        if self._join is None:
            groups = tuple(conversation.group for conversation in self.going)
            create = tuple(name for name in self.create if name in groups)
            self._revision += self._named not in ((), groups)
            self._named = groups
            self._join = Join(
                self.rank,
                self._session,
                groups,
                create,
                self.one_after_another,
                self._revision,
                self.place and dataclasses.replace(self.place, notes=self._notes()),
                self.wait_seconds if self.place else None,
            )
        return self._join

    def replace(self, conversations: Sequence[Conversation], create: Sequence[str]) -> None:
        """Talk of these groups from here on, in the same life: the next join says so. None has been pulled from yet."""
        self.conversations, self.create = list(conversations), tuple(create)
        self._join = None

    def take_place(self, place: Place, notes: Callable[[], str], check: Callable[[Joined], None] | None = None) -> None:
        """Be this stage of a replica from the next join on, or tell more of the place that is held already. `check`
        raises `WireError` where what a join has told does not do.
        """
        self.place, self._notes, self._check, self._join = place, notes, check, None
        for conversation in self.going:
            conversation.rejoin(Code.NOT_JOINED)

    def begin_anew(self) -> None:
        """Give this life up for another one, as a new process would: what was under way of it is lost."""
        self._session, self._join, self.life = self._new_session(), None, None
        self.ended_by = Code.STAGE_LOST
        for conversation in self.going:
            conversation.update.drop(Code.STAGE_LOST)
            conversation.rejoin(Code.STAGE_LOST)

    def is_newest(self, join: object) -> bool:
        return join is not None and join is self._join

    def give_up_join(self) -> None:
        """The attempt is over, or no longer says what is wanted: its reply will not count."""
        self._join = None

    def joined(self, joined: Joined) -> None:
        """Take over what a join has said. Raises `WireError` when it lacks a group."""
        for conversation in self.going:
            if conversation.group not in joined.groups:
                missing = f"{self.rank} has joined, but not its group {conversation.group!r}"
                raise WireError(Code.UNKNOWN_GROUP, missing)
        if self._check is not None:
            self._check(joined)
        stage = None if self.place is None else self.place.stage
        before, self.life = self.life, Life(self.rank, joined.epoch, joined.incarnation, stage)
        going = self.going
        if self._epoch not in (None, joined.epoch):
            # The server may have gone back to before the end of those that are complete: it is asked about them too.
            for conversation in self.conversations:
                conversation.begin_again()
        self._epoch = joined.epoch
        self.lease_seconds, self.until = joined.lease_seconds, joined.until
        self.barriers, self.limits, self.replica = dict(joined.barriers), joined.limits, joined.replica
        # An equal life that is not taken up again is not ours: the server has forgotten the one before.
        another = not joined.resumed or self.life != before
        for conversation in going:
            # Whoever asks under a life that goes on is answered under it.
            if another or conversation.state is State.JOINING:
                conversation.meet(joined, before)

    # It ends.

    def over(self, error: WireError) -> tuple[Conversation, ...]:
        """The server has ended it, and says what became of every group's last push: another one begins, or none.

        Returns those whose push is still being applied. Nothing has happened then: a life that has ended is told its
        disposition all the same, so it is to be asked again.
        """
        last = last_pushes(error.facts.get("last") or {})
        going = self.going
        pending = tuple(each for each in going if each.update.is_pending(last.get(each.group)))
        if pending:
            return pending
        self.life, self.ended_by = None, error.code
        for conversation in going:
            if conversation.update.recall(last.get(conversation.group)) is Recall.SETTLED:
                conversation.committed += 1
            conversation.update.drop(error.code)
        if REACTIONS[error.code] in (Reaction.NEW_LIFE, Reaction.NEXT_LIFE):
            if self.place is None:
                self._session = self._new_session()
            self._join = None
            for conversation in going:
                conversation.rejoin(error.code)
        else:
            for conversation in going:
                conversation.stop(error)
        return ()

    def finish(self, error: WireError) -> None:
        """The run is complete, in every group."""
        for conversation in self.going:
            conversation.finish(error)

    def leave(self, speaker: Conversation) -> None:
        """End it in good order: `speaker` says the goodbye, unless it has ended before."""
        for conversation in self._with_last(speaker):
            conversation.depart()

    def give_way(self, error: WireError, speaker: Conversation) -> None:
        """End it so that others can go on, and tell the user why."""
        for conversation in self._with_last(speaker):
            conversation.give_way(error)

    def _with_last(self, speaker: Conversation) -> list[Conversation]:
        """Those that go on, in an order in which they can end: the last one says goodbye."""
        return sorted(self.going, key=lambda conversation: conversation is speaker)
