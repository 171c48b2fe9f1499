"""Where a worker stands in one group: its state, its clock, its grant, its update in hand. Pure.

The one rule: how the states follow one another is decided here; the requests and replies that lead from one to the next
are `conversation`'s.

An update stays in hand through lost replies, rejoins and restarts of the server until its end is known, which
is told once, as its `Outcome`: the server's disposition when the server has accepted it; dropped, with the
reason, when the server has not and no longer can (another life, another epoch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from leeway.protocol.codes import Code
from leeway.protocol.membership import Join, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.worker.session.offering import Offering
from leeway.worker.session.pace import Pace
from leeway.worker.session.states import Ending, Outcome, State
from leeway.worker.session.updates import Recall, UpdateInHand

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from random import Random

    from leeway.errors import WireError
    from leeway.protocol.lives import Life
    from leeway.protocol.membership import GroupState, Joined
    from leeway.protocol.pulls import Granted
    from leeway.protocol.pushes import Pushed
    from leeway.protocol.tensors import TensorSpec
    from leeway.protocol.times import StepTimes
    from leeway.protocol.versions import Version
    from leeway.worker.session.shared_life import SharedLife

Ask = Join | Offer | Pull | Push | Leave


_STOPPED: Final = {Code.FENCED: Ending.FENCED, Code.QUARANTINED: Ending.QUARANTINED}


class Course:
    """In `group`, in a life `shared` with other groups. What it asks for, and hears, is in `Conversation`."""

    def __init__(self, shared: SharedLife, group: str, random: Random, wait_seconds: float | None) -> None:
        self.shared = shared
        self.group = group
        self.wait_seconds = wait_seconds
        self.state = State.JOINING
        self.ending: Ending | None = None
        # Why it ended, in words; empty when it was by our own wish.
        self.ending_detail = ""
        # What the server said when it ended this conversation against our wish.
        self.error: WireError | None = None
        self.policy = ""  # at the last join
        self._own_until: int | None = None  # as `GroupState` has it

        # Invariant: `grant` answers the pull of iteration `clock`, and is None until that is answered.
        self.clock = 0
        self.grant: Granted | None = None
        self.index = 0
        self.count = 1
        # How many updates of this rank have been accepted, in all its lives: its place in the data.
        self.committed = 0

        # Invariant: empty in every state but PUSHING and, on the way back to it, JOINING.
        self.update = UpdateInHand()
        self._held: Version | None = None
        self._lapsed: Code | None = None  # why the grant is gone that was being computed from
        self._offering = Offering()
        self._pace = Pace(random)
        # The request under way; None when there is none, and when another one is wanted now.
        self._asked: Ask | None = None

    def __str__(self) -> str:
        return f"{self.life or self.rank}@{self.clock} {self.ending or self.state}"

    @property
    def rank(self) -> str:
        return self.shared.rank

    @property
    def life(self) -> Life | None:
        return self.shared.life

    @property
    def until(self) -> int | None:
        """The clock at which this group is complete, where it has one."""
        return self.shared.until if self._own_until is None else self._own_until or None

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The group's tensors, as far as the server has told."""
        return self._offering.known

    @property
    def in_hand(self) -> bool:
        """Whether an update has been computed and its end is not known."""
        return self.update.push is not None

    @property
    def outcome(self) -> Outcome | None:
        """The end of the last update: None while it is in hand, and before the first."""
        return self.update.outcome

    # What the worker wants.

    def offer(
        self,
        specs: Iterable[TensorSpec],
        *,
        whole: bool = False,
        aliases: Mapping[str, tuple[str, ...]] | None = None,
        own: Collection[str] | None = None,
        holds: Callable[[], str] = str,
    ) -> None:
        """Offer initial values for these tensors, now and whenever a server is met that lacks any of them.

        `whole`: they are all of the group; a server that has others refuses. `aliases`: further names of tied ones.
        `own`: of a stage, those that it has values of; the other stages offer the others. `holds`: which values those
        are (`Offer`), asked whenever they are offered.
        """
        spread = own is not None
        question = Offer(tuple(specs), True, whole, self.group, dict(aliases or {}), spread=spread)
        self._offering.change(question, own, holds)
        if self.state in (State.OFFERING, State.PULLING, State.COMPUTING):
            self._asked = None
            self._offer_or_pull()

    def pull(self) -> None:
        """Ask once more for the parameters of this iteration."""
        if self.state is State.COMPUTING:
            self._to_pulling()

    def computed(
        self,
        kind: UpdateKind,
        samples: int,
        keys: tuple[str, ...] = (),
        metrics: Mapping[str, float] | None = None,
        *,
        values: tuple[str, ...] = (),
        pull: bool = True,
        times: StepTimes | None = None,
    ) -> None:
        """The iteration's update is ready. `values`: those of `keys` that are values. `pull`: the next parameters are
        wanted in the same reply. `times`: of the iteration before.

        When the grant has lapsed in the meantime the update is dropped at once: see `outcome`.
        Raises `ValueError` when this iteration's pull has not been answered.
        """
        if self._lapsed is not None:
            self.update.outcome = Outcome(self.clock, None, self._lapsed)
            self._lapsed = None
            return
        if self.state is not State.COMPUTING:
            raise ValueError(f"a push follows an answered pull of its iteration; this session is {self.state}")
        assert self.life is not None
        assert self.grant is not None
        place = None if kind is UpdateKind.SKIP else self.shared.place
        push = Push(
            self.life,
            self.clock,
            self.grant.version.number,
            kind,
            samples,
            group=self.group,
            round=self.grant.round,
            part=0 if place is None else place.stage,
            parts=1 if place is None else place.stages,
            keys=keys,
            values=values,
            pull=pull,
            since=self._held if pull else None,
            wait_seconds=self.wait_seconds if pull or place else None,
            metrics=dict(metrics or {}),
            times=times,
        )
        self.update.take(push)
        self.state = State.PUSHING

    def skip(self, *, pull: bool = True, times: StepTimes | None = None) -> None:
        """The iteration has no update. Raises what `computed` raises."""
        self.computed(UpdateKind.SKIP, 0, pull=pull, times=times)

    # What is told of the life.

    def meet(self, joined: Joined, before: Life | None) -> None:
        """Take over this group's part of a join; what was asked or computed under another life is over."""
        group = joined.groups[self.group]
        self._asked = None
        self._pace.answered()
        if before is not None:
            self._lapse(Code.OLD_EPOCH if before.epoch != joined.epoch else Code.NOT_JOINED)
        self.index, self.count = joined.index, joined.count
        self.policy, self._own_until, self.committed = group.policy, group.until, group.committed
        self._offering.meet(group.specs, whole=group.whole)
        if self.update.push is not None:
            self._resume(self.update.push, joined.resumed, group)
        if not self.in_hand:
            self.clock = group.clock
            self._offer_or_pull()

    def rejoin(self, code: Code) -> None:
        """It is gone, or out of step with this group."""
        self._lapse(code)
        self.grant = None
        self._asked = None
        self.state = State.JOINING
        self._pace.must_rejoin()

    def stop(self, error: WireError) -> None:
        """Somebody has ended it, and there will be no other."""
        self.error = error
        self._lapse(error.code)
        self._end(_STOPPED.get(error.code, Ending.LEFT), error.detail)

    def finish(self, error: WireError) -> None:
        """This group's run is complete."""
        self.update.drop(error.code)
        self._lapse(error.code)
        self._end(Ending.FINISHED, error.detail)

    def begin_again(self) -> None:
        """If this group's run was complete: whether it still is is for the next join to say. Nothing otherwise."""
        if self.ending is Ending.FINISHED:
            self.ending, self.ending_detail = None, ""
            self._lapsed = Code.OLD_EPOCH
            self.state = State.JOINING

    def depart(self) -> None:
        """It ends by our own wish."""
        self.update.drop(Reason.LEFT)
        self._end(Ending.LEFT)

    def give_way(self, error: WireError) -> None:
        """It ends so that others can go on."""
        self.error = error
        self.update.drop(error.code)
        self._lapse(error.code)
        self._end(Ending.DEADLOCK, error.detail)

    # How the states follow one another.

    def _resume(self, push: Push, resumed: bool, group: GroupState) -> None:
        """Find out what became of the update in hand; push it again or drop it."""
        assert self.life is not None
        # An update's name is (rank, incarnation, clock): a restarted server may know it in its new epoch.
        same_name = resumed and push.life.incarnation == self.life.incarnation
        recall = self.update.recall(group.last if same_name else None)
        if recall is Recall.PENDING:
            self.update.move(self.life)
            self.state = State.PUSHING
        elif recall is Recall.UNKNOWN and resumed and (push.life, push.clock) == (self.life, group.clock):
            self.state = State.PUSHING
        elif recall is Recall.UNKNOWN:
            self.update.drop(Code.OLD_EPOCH if push.life.epoch != self.life.epoch else Code.NOT_JOINED)

    def _offer_or_pull(self) -> None:
        if self._offering.is_needless:
            self._to_pulling()
        else:
            self.grant = None
            self._to_offering()

    def _to_offering(self) -> None:
        self._offering.begin()
        self.state = State.OFFERING

    def _to_pulling(self) -> None:
        self.grant = None
        self.state = State.PULLING
        if self.until is not None and self.clock >= self.until:
            self._end(Ending.FINISHED, f"the run ends at clock {self.until}")

    def _granted(self, granted: Granted) -> None:
        self._pace.got_on()
        self.grant = granted
        self._held = granted.version
        if granted.count:
            self.index, self.count = granted.index, granted.count
        self._lapsed = None
        if granted.step_failed or granted.too_few:
            reason = Reason.STEP_FAILED if granted.step_failed else Reason.TOO_FEW_UPDATES
            self.update.without_step(self.clock - 1, reason)
        if granted.clock is not None:
            # Further than asked where a round has closed without this worker.
            self.clock = granted.clock
        self.state = State.COMPUTING

    def _pushed(self, pushed: Pushed) -> None:
        self._pace.got_on()
        self.update.settle(pushed)
        self.committed += 1
        self.clock = pushed.clock + 1 if pushed.next_clock is None else pushed.next_clock
        self._to_pulling()

    def _lapse(self, code: Code) -> None:
        """What is being computed will be dropped, for its grant is gone."""
        if self.state is State.COMPUTING:
            self._lapsed = code

    def _end(self, ending: Ending, detail: str = "") -> None:
        self.ending, self.ending_detail = ending, detail
        self.grant = None
        self._asked = None
        self._pace.answered()
        # A join under way may name this group.
        self.shared.give_up_join()
        self.state = State.LEAVING if self.life is not None and self.shared.ended else State.ENDED
