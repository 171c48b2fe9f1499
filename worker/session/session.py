"""One worker's conversation with a server about one group: what to send next, retries, back-off. Pure.

The one rule: I/O sends what `ask` gives and tells `answered` or `lost`; all that is decided is decided here.

    JOINING -> OFFERING -> PULLING -> COMPUTING -> PUSHING -> PULLING -> ... -> LEAVING -> ENDED

- JOINING     a life is asked for; or asked back, after a refusal that says it is gone or out of step
- OFFERING    the tensors that are trained here: are they the server's; initial values that it lacks; left out when
              it is known to have the same
- PULLING     the parameters of iteration `clock`
- COMPUTING   they are granted: nothing is sent until `computed`, `skip` or `leave`
- PUSHING     the update in hand, under one name, until its end is known
- LEAVING     a goodbye, said a few times at most: the lease does the rest
- ENDED       for good; `ending` says why

A named barrier is a wish beside these: while it is wanted, it is asked in the place of a pull and while computing, and
a life that is lost meanwhile is asked for first. It leaves the grant as it is.

An update stays in hand through lost replies, rejoins and restarts of the server until its end is known, which
is told once, as its `Outcome`: the server's disposition when the server has accepted it; dropped, with the
reason, when the server has not and no longer can (another life, another epoch).

A session is about one group, with a clock of its own. Lives are per server and a rank has one: the sessions of a
worker's groups share it (`SharedLife`), and it joins those groups alone, so that it holds up nobody in another.
What one session learns of the life, all learn: a life that is replaced ends what the others were asking, and the
same reply tells each what became of its update in hand. A session that is finished ends; the last one leaves.

A reply counts for the attempt that it answers, while that is the newest: `answered` wants the very object
that `ask` gave. After `lost` that attempt is over, and the next one is an equal, new object. A join is one object
for all sessions that want it, to be sent by one of them at a time.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol.barriers import Barrier, Passed
from leeway.protocol.codes import Code
from leeway.protocol.membership import Departed, Join, Joined, Leave
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Push, Pushed, PushPulled, UpdateKind, last_pushes
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.worker.session.backoff import BASE_SECONDS, Backoff
from leeway.worker.session.offering import Offering
from leeway.worker.session.refusals import REACTIONS, Reaction
from leeway.worker.session.shared_life import SharedLife
from leeway.worker.session.states import Ending, Outcome, State
from leeway.worker.session.updates import Recall, UpdateInHand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from random import Random

    from leeway.protocol.capacity import Capacity
    from leeway.protocol.lives import Life
    from leeway.protocol.membership import GroupState
    from leeway.protocol.messages import Reply
    from leeway.protocol.tensors import TensorSpec
    from leeway.protocol.times import StepTimes
    from leeway.protocol.versions import Version

__all__ = ["Ask", "Ending", "Outcome", "Session", "State"]

Ask = Join | Offer | Pull | Push | Barrier | Leave

# A goodbye only spares the others the lease's time; a server that is gone itself must not hold up our end.
LEAVE_ATTEMPTS = 3

ENDS_THE_LIFE = frozenset({Reaction.NEW_LIFE, Reaction.STOP})


class Session:
    """The conversation. `new_session` draws an id never drawn before; `random` is for the jitter alone.

    `wait_seconds`: how long the server may park a pull before it says "not yet" (None: not at all).
    `beside`: a session of another group of the same worker, before that has joined; they share one life.
    """

    def __init__(
        self,
        rank: str,
        *,
        new_session: Callable[[], str],
        random: Random,
        group: str = DEFAULT_GROUP,
        wait_seconds: float | None = 20.0,
        beside: Session | None = None,
    ) -> None:
        self.shared: SharedLife = beside.shared if beside else SharedLife(rank, new_session)
        self.shared.sessions.append(self)
        self.rank = rank
        self.group = group
        self.wait_seconds = wait_seconds
        self.state = State.JOINING
        self.ending: Ending | None = None
        # What the server said when it ended this session against our wish.
        self.error: WireError | None = None

        # As told by the last join. `specs` is the group's schema; `whole`: no key is added to it any more.
        self.policy = ""
        self.specs: tuple[TensorSpec, ...] = ()
        self._whole = False

        # Invariant: `grant` answers the pull of iteration `clock`, and is None until that is answered.
        self.clock = 0
        self.grant: Granted | None = None
        self.index = 0
        self.count = 1

        self._backoff = Backoff(random)
        # Lives that were begun and led to no grant and no disposition, in a row: a circle of refusals slows down.
        self._circle = Backoff(random)
        self._asked: Ask | None = None
        self._held: Version | None = None
        # Invariant: empty in every state but PUSHING and, on the way back to it, JOINING.
        self._update = UpdateInHand()
        self._barrier: tuple[str, int] | None = None  # the name and the parties of the one that is wanted
        self._lapsed: Code | None = None  # why the grant is gone that was being computed from
        self._offering = Offering(Offer((), ask=True))

    def __str__(self) -> str:
        return f"{self.life or self.rank}@{self.clock} {self.ending or self.state}"

    @property
    def life(self) -> Life | None:
        return self.shared.life

    @property
    def lease_seconds(self) -> float:
        return self.shared.lease_seconds

    @property
    def until(self) -> int | None:
        return self.shared.until

    @property
    def barriers(self) -> dict[str, int]:
        """How often each named barrier has been passed."""
        return self.shared.barriers

    @property
    def limits(self) -> Capacity:
        return self.shared.limits

    @property
    def delay_seconds(self) -> float:
        """How long to wait before sending what `ask` gives."""
        return self._backoff.delay_seconds

    @property
    def in_hand(self) -> bool:
        """Whether an update has been computed and its end is not known."""
        return self._update.push is not None

    @property
    def arriving(self) -> bool:
        """Whether a barrier is wanted that has not been passed."""
        return self._barrier is not None

    @property
    def outcome(self) -> Outcome | None:
        """The end of the last update: None while it is in hand, and before the first."""
        return self._update.outcome

    def ask(self) -> Ask | None:
        """The request to send now; None when there is none, in ENDED, and in COMPUTING when no barrier is wanted.

        The same object until it is answered or lost.
        """
        if self._asked is None or self.state is State.JOINING:
            self._asked = self._next()
        return self._asked

    def _next(self) -> Ask | None:
        match self.state:
            case State.JOINING:
                return self.shared.ask()
            case State.OFFERING:
                return self._offering.ask()
            case State.PULLING | State.COMPUTING if self._barrier is not None:
                assert self.life is not None
                name, parties = self._barrier
                return Barrier(self.life, name, self.barriers.get(name, 0), parties, self.wait_seconds)
            case State.PULLING:
                return Pull(self.group, self.life, self.clock, since=self._held, wait_seconds=self.wait_seconds)
            case State.PUSHING:
                assert self._update.push is not None
                return dataclasses.replace(self._update.push)
            case State.LEAVING:
                assert self.life is not None
                return Leave(self.life)
            case State.COMPUTING | State.ENDED:
                return None

    # What the worker wants.

    def offer(
        self,
        specs: Iterable[TensorSpec],
        *,
        whole: bool = False,
        aliases: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Offer initial values for these tensors, now and whenever a server is met that lacks any of them.

        `whole`: they are all of the group; a server that has others refuses. `aliases`: further names of tied ones.
        """
        self._offering = Offering(
            Offer(tuple(specs), ask=True, whole=whole, group=self.group, aliases=dict(aliases or {}))
        )
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
            self._update.outcome = Outcome(self.clock, None, self._lapsed)
            self._lapsed = None
            return
        if self.state is not State.COMPUTING:
            raise ValueError(f"a push follows an answered pull of its iteration; this session is {self.state}")
        assert self.life is not None
        assert self.grant is not None
        push = Push(
            life=self.life,
            clock=self.clock,
            version=self.grant.version.number,
            kind=kind,
            samples=samples,
            group=self.group,
            round=self.grant.round,
            keys=keys,
            values=values,
            pull=pull,
            since=self._held if pull else None,
            wait_seconds=self.wait_seconds if pull else None,
            metrics=dict(metrics or {}),
            times=times,
        )
        self._update.take(push)
        self.state = State.PUSHING

    def skip(self, *, pull: bool = True, times: StepTimes | None = None) -> None:
        """The iteration has no update. Raises what `computed` raises."""
        self.computed(UpdateKind.SKIP, 0, pull=pull, times=times)

    def arrive(self, name: str, parties: int = 1) -> None:
        """Come to the next generation of a named barrier, and wait for `parties` there at least: see `arriving`.

        Of several groups' sessions one does so for the worker.
        """
        self._barrier = name, parties
        self._ask_anew()

    def turn_back(self) -> None:
        """Want no barrier any more; the server may have counted this worker."""
        if self._barrier is not None:
            self._barrier = None
            self._ask_anew()

    def _ask_anew(self) -> None:
        if self.state in (State.PULLING, State.COMPUTING):
            self._asked = None

    def leave(self) -> None:
        """End the life in good order, for all groups. Updates in hand are dropped, accepted or not."""
        going = self.shared.going
        # This one last, if it goes on: it is the last that says the goodbye.
        for session in sorted(going, key=lambda session: session is self):
            session._update.drop(Reason.LEFT)
            session._leave(Ending.LEFT)

    # What came back.

    def answered(self, request: object, reply: Reply, retry_after_seconds: float | None = None) -> None:
        """The server's reply to what `ask` gave; a reply to anything else is ignored.

        `retry_after_seconds`: the server's wish (HTTP `Retry-After`).
        Raises the refusal's `WireError` when it is for the user: a schema conflict, a wrong tensor, a body
        too large. The grant is kept then, so another update can be pushed in place of the refused one.
        """
        if not self._is_newest(request):
            return
        self._give_up()
        if not (isinstance(reply, Refused) and REACTIONS[reply.error.code] is Reaction.AGAIN):
            # The server is there: what an outage has cost must not slow down the requests that follow it.
            self._backoff.succeeded()
        match self.state, reply:
            case _, Refused(error):
                self._refused(error, retry_after_seconds)
            case State.JOINING, Joined():
                self._joined(reply)
            case _, Passed() if isinstance(request, Barrier):
                self.barriers[request.name] = request.generation + 1
                self._barrier = None
            case _, NotYet() if isinstance(request, Barrier):
                self._not_yet(retry_after_seconds)
            case State.OFFERING, Offered():
                self._offered(reply)
            case State.PULLING, Granted() | NotYet():
                self._pulled(reply, retry_after_seconds)
            case State.PUSHING, Pushed():
                self._pushed(reply)
            case State.PUSHING, PushPulled(pushed, pulled):
                self._pushed(pushed)
                if self.ending is None:
                    self._pulled(pulled, retry_after_seconds)
            case State.LEAVING, Departed():
                self.state = State.ENDED
            case _:
                raise WireError(Code.INTERNAL, f"the server answered {request} with: {reply}")

    def lost(self, request: object = None) -> None:
        """The connection was lost, or the time is over. The request may or may not have been heard.

        `request`: which one; nothing happens when that attempt was over already. None: the newest.
        """
        if request is None or self._is_newest(request):
            self._give_up()
            self._failed(None)

    def _is_newest(self, request: object) -> bool:
        if self.state is State.JOINING:
            return self.shared.is_newest(request)
        return self._asked is not None and request is self._asked

    def _give_up(self) -> None:
        """The attempt is over."""
        self._asked = None
        if self.state is State.JOINING:
            self.shared.give_up_join()

    # How the states follow one another.

    def _joined(self, joined: Joined) -> None:
        going = self.shared.going
        for session in going:
            if session.group not in joined.groups:
                raise WireError(Code.UNKNOWN_GROUP, f"{self.rank} has joined, but not its group {session.group!r}")
        before = self.life
        another = self.shared.joined(joined)
        for session in going:
            # Whoever asks under a life that goes on is answered under it.
            if another or session.state is State.JOINING:
                session._meet(joined, before)

    def _meet(self, joined: Joined, before: Life | None) -> None:
        """Take over this group's part of a join; what was asked or computed under another life is over."""
        group = joined.groups[self.group]
        self._asked = None
        self._backoff.succeeded()
        if before is not None:
            self._lapse(Code.OLD_EPOCH if before.epoch != joined.epoch else Code.NOT_JOINED)
        self.index, self.count = joined.index, joined.count
        self.policy, self.specs, self._whole = group.policy, group.specs, group.whole
        if self._update.push is not None:
            self._resume(self._update.push, joined.resumed, group)
        if self._update.push is None:
            self.clock = group.clock
            self._offer_or_pull()

    def _resume(self, push: Push, resumed: bool, group: GroupState) -> None:
        """Find out what became of the update in hand; push it again or drop it."""
        assert self.life is not None
        # An update's name is (rank, incarnation, clock): a restarted server may know it in its new epoch.
        same_name = resumed and push.life.incarnation == self.life.incarnation
        recall = self._update.recall(group.last if same_name else None)
        if recall is Recall.PENDING:
            self._update.move(self.life)
            self.state = State.PUSHING
        elif recall is Recall.UNKNOWN and resumed and (push.life, push.clock) == (self.life, group.clock):
            self.state = State.PUSHING
        elif recall is Recall.UNKNOWN:
            self._update.drop(Code.OLD_EPOCH if push.life.epoch != self.life.epoch else Code.NOT_JOINED)

    def _offer_or_pull(self) -> None:
        if self._offering.is_needless(self.specs, whole=self._whole):
            self._to_pulling()
        else:
            self.grant = None
            self._offering.begin()
            self.state = State.OFFERING

    def _offered(self, offered: Offered) -> None:
        if self._offering.answered(offered):
            self.specs = self._offering.known_after(self.specs)
            self._to_pulling()

    def _to_pulling(self) -> None:
        self.grant = None
        self.state = State.PULLING
        if self.until is not None and self.clock >= self.until:
            self._leave(Ending.FINISHED)

    def _pulled(self, pulled: Granted | NotYet | Refused, retry_after_seconds: float | None) -> None:
        match pulled:
            case Granted():
                self._circle.succeeded()
                self.grant = pulled
                self._held = pulled.version
                if pulled.count:
                    self.index, self.count = pulled.index, pulled.count
                self._lapsed = None
                if pulled.step_failed or pulled.too_few:
                    reason = Reason.STEP_FAILED if pulled.step_failed else Reason.TOO_FEW_UPDATES
                    self._update.without_step(self.clock - 1, reason)
                if pulled.clock is not None:
                    # Further than asked where a round has closed without this worker.
                    self.clock = pulled.clock
                self.state = State.COMPUTING
            case NotYet():
                self._not_yet(retry_after_seconds)
                if pulled.reason is Reason.NO_PARAMETERS and self._offering.question.specs:
                    # Somebody else was offering them, and the server failed to store them.
                    self._offering.begin()
                    self.state = State.OFFERING
            case Refused(error):
                self._refused(error, retry_after_seconds)

    def _not_yet(self, retry_after_seconds: float | None) -> None:
        """What was parked is asked again at once; what was not must not become a busy loop."""
        parked = self.wait_seconds is not None
        self._backoff.succeeded(0.0 if parked else retry_after_seconds or BASE_SECONDS)

    def _pushed(self, pushed: Pushed) -> None:
        self._circle.succeeded()
        self._update.settle(pushed)
        self.clock = pushed.clock + 1 if pushed.next_clock is None else pushed.next_clock
        self._to_pulling()

    def _refused(self, error: WireError, retry_after_seconds: float | None) -> None:
        code = error.code
        reaction = REACTIONS[code]
        if reaction is Reaction.AGAIN:
            self._failed(retry_after_seconds)
            return
        if self.state is State.LEAVING:
            # Evicted, fenced, of an old epoch: the life that was to end is no more.
            self.state = State.ENDED
            return
        # Who is concerned: what has ended the life, or the run, has ended it for every group.
        for_all = self.state is State.JOINING if reaction is Reaction.FINISH else reaction in ENDS_THE_LIFE
        concerned = self.shared.going if for_all else (self,)
        if reaction in ENDS_THE_LIFE and self._resolve(concerned, error) is Recall.PENDING:
            self._failed(retry_after_seconds)
            return
        match reaction:
            case Reaction.REJOIN:
                self._rejoin(code)
            case Reaction.DROP:
                self._update.drop(code)
                self._rejoin(code)
            case Reaction.NEW_LIFE:
                self.shared.begin_anew()
                for session in concerned:
                    session._rejoin(code)
            case Reaction.STOP:
                self.shared.life = None
                for session in concerned:
                    session.error = error
                    session._lapse(code)
                    session._leave(Ending.FENCED if code is Code.FENCED else Ending.LEFT)
            case Reaction.FINISH:
                for session in concerned:
                    session._update.drop(code)
                    session._lapse(code)
                    session._leave(Ending.FINISHED)
            case Reaction.SKIP if self._update.push is not None:
                tensor = error.facts.get("tensor")
                self._update.become_skip(code, tensor if isinstance(tensor, str) else None)
            case _:
                if self.state is State.PUSHING:
                    self._update.drop(code)
                    self.state = State.COMPUTING
                raise error

    def _resolve(self, concerned: Iterable[Session], error: WireError) -> Recall:
        """The life has ended; its refusal says what became of every group's last push. PENDING: nothing has happened
        yet, for one of them is still being applied; a life that has ended is told its disposition all the same."""
        last = last_pushes(error.facts.get("last") or {})
        pending = [session for session in concerned if session._update.is_pending(last.get(session.group))]
        if self in pending:
            self.state = State.PUSHING
        if pending:
            return Recall.PENDING
        for session in concerned:
            session._update.recall(last.get(session.group))
            session._update.drop(error.code)
        return Recall.SETTLED

    def _lapse(self, code: Code) -> None:
        """What is being computed will be dropped, for its grant is gone."""
        if self.state is State.COMPUTING:
            self._lapsed = code

    def _rejoin(self, code: Code) -> None:
        self._lapse(code)
        self.grant = None
        self._asked = None
        self.state = State.JOINING
        # Joining is not what ends a circle of refusals: it cannot become a busy loop.
        self._circle.failed()
        self._backoff.succeeded(self._circle.delay_seconds)

    def _leave(self, ending: Ending) -> None:
        self.ending = ending
        self.grant = None
        self._asked = None
        self._backoff.succeeded()
        # A join under way may name this group.
        self.shared.give_up_join()
        self.state = State.LEAVING if self.life is not None and self.shared.ended else State.ENDED

    def _failed(self, retry_after_seconds: float | None) -> None:
        self._backoff.failed(retry_after_seconds)
        if self.state is State.LEAVING and self._backoff.failures >= LEAVE_ATTEMPTS:
            self.state = State.ENDED
