"""A deliberately dumb server of one group: the contract written down once more, slowly.

The one rule: it shares no line with `ps.core`, only the messages. What happened is in `history.py`, everything else is
counted from that, each time anew. Replies are told as plain tuples, see `told.py`.
"""

from collections.abc import Sequence
from typing import Any

from leeway.protocol.barriers import Barrier
from leeway.protocol.membership import Heartbeat, Join, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.quarantine import Quarantine, Release
from leeway.protocol.ranks import natural
from leeway.protocol.reasons import Reason
from leeway.protocol.tuning import SetPolicy
from tests.properties.conditions import Conditions, Told
from tests.properties.dumb_barriers import DumbBarriers
from tests.properties.facts import Decision, Grant, Life, Moved, Part, Round, Update, Waiter


class Oracle(Conditions):
    """One group. `ask`, `hear`, `tick`, `gone`, `publish`, `restart` and `stop` leave in `replies`, `applies`, `drops`
    and `happened` what the event leads to."""

    def __init__(self, policy, **settings) -> None:
        super().__init__(policy, **settings)
        self.barriers = DumbBarriers(self.live, self._say)
        self._forget()

    def _forget(self) -> None:
        """What the present event leads to."""
        self.replies: list[tuple[int, Told]] = []
        self.applies: list[Told] = []
        self.drops: list[int] = []
        self.happened: list[Told] = []

    # Events.

    def ask(self, request: int, message: Any, now: float, norm: float | None = None) -> None:
        self._begin(now)
        if self.stopping:
            self.drops += [request] if isinstance(message, (Push, Offer)) else []
            self._say(request, ("refused", "stopping", {}))
            return
        match message:
            case Join():
                self._join(request, message)
            case Offer():
                self._offer(request, message)
            case SetPolicy():
                self._switch(request, message)
            case Push():
                self._push(request, message, norm)
            case Quarantine():
                self._keep_out(message.rank)
                self._say(request, ("quarantine", message.rank, True))
            case Release():
                self._let_in(request, message.rank)
            case Pull(life=None):
                self._pull(request, message, None, None)
            case _:
                self._asked_by_worker(request, message)
        self._settle()

    def tick(self, now: float) -> None:
        self._begin(now)
        if self.stopping:
            return
        for life in [life for life in self.live() if life.heard + self.lease <= now]:
            self._end(life, Reason.LEASE_EXPIRED)
        if self.longest is not None:
            for life in self.live():
                computing = self.granted(life) and all(map(self.is_final, filter(None, [self.last(life)])))
                if computing and self.granted(life)[0].at + self.longest <= now:
                    self._end(life, Reason.ITERATION_TOO_LONG)
        self._settle()
        self.barriers.tick(now)
        for waiter in [waiter for waiter in self.waiters if waiter.since + waiter.pull.wait_seconds <= now]:
            self._answer(waiter, self.not_yet(waiter.pull, waiter.life))
        self._settle()

    def pause(self, seconds: float, now: float) -> None:
        """What lies within the last `seconds` is as if it were now, all before is later by so much."""
        self._begin(now)

        def moved(at: float) -> float:
            return now if at >= now - seconds else at + seconds

        for life in self.live():
            life.heard = moved(life.heard)
        for grant in self.grants:
            grant.at = moved(grant.at)
        for waiter in self.waiters:
            waiter.since = moved(waiter.since)
        for update in self.updates:
            update.at = moved(update.at)
        self.barriers.pause(moved)
        self._settle()

    def gone(self, request: int, now: float) -> None:
        self._begin(now)
        self.waiters = [waiter for waiter in self.waiters if waiter.request != request]
        for decision in self.decisions:
            decision.asked = decision.asked and decision.offer != request
        for update in self.updates:
            update.askers = [asker for asker in update.askers if asker[0] != request]
        self.barriers.gone(request)
        self._settle()

    def publish(self, now: float, *, failed: bool = False) -> None:
        self._begin(now)
        self.published += 1
        self.min_clock()
        decision = self.decisions[self.published - 1]
        decision.failed = failed
        if decision.offer is not None:
            self.drops.append(decision.offer)
            self.specs = {name: spec for name, spec in self.specs.items() if not failed or name not in decision.stored}
            self.whole = self.whole and not failed
            if decision.asked:
                stored = ("offered", decision.stored, decision.kept, ())
                self._say(decision.offer, ("refused", "internal", {}) if failed else stored)
        elif decision.round is None:
            (update,) = decision.updates
            self._advanced(update.life)
            askers, update.askers = update.askers, []
            for place, (request, push) in enumerate(askers):
                self._tell(request, push, update, repeated=place > 0)
        self._settle()

    def stop(self, now: float) -> None:
        self._begin(now)
        self.stopping = True
        self._settle()

    def restart(self, now: float, epoch: int) -> None:
        """A start from a state that was just saved: what was in flight counts as published."""
        self._begin(now)
        self.published = len(self.decisions)
        self.min_clock()
        self.epoch = epoch
        self.waiters, self.barriers.attempts, self.parts, self.finished = [], {}, [], False
        self.barriers.ended = None
        for update in self.updates:
            update.askers = []
            update.at = now
        self.paced_from = self.usual_from = len(self.updates)
        self.conduct.append(("restarted", "everybody"))
        for life in self.live():
            life.heard = now
        for grant in self.grants:
            grant.at = now

    def _begin(self, now: float) -> None:
        self._forget()
        self.now = now
        for life in self.live():
            if self.is_asking(life):
                life.heard = now  # until this moment it had a request open, which is not silence

    def is_asking(self, life: Life) -> bool:
        """Whether a request of this life is not answered yet."""
        waits = any(waiter.life is life for waiter in self.waiters) or self.barriers.has(life)
        return waits or any(update.life is life and update.askers for update in self.updates)

    def lease_left(self, life: Life) -> float:
        return self.lease if self.is_asking(life) else life.heard + self.lease - self.now

    def _say(self, request: int, reply: Told) -> None:
        self.replies.append((request, reply))

    # Lives.

    def _join(self, request: int, join: Join) -> None:
        if self.is_kept_out(join.rank):
            self._say(request, ("refused", "quarantined", {"last": {}}))
            return
        life = next((life for life in self.remembered(join.rank) if life.session == join.session), None)
        if life and life.ended:
            self._say(request, self.epitaph(life))
            return
        resumed = life is not None
        if life is None:
            for old in [life for life in self.live() if life.rank == join.rank]:
                self._end(old, Reason.NEW_SESSION)
            if self.switching_at is not None:
                start = self.switching_at
            else:
                start = self.next_round() if self.mode == "sync" else self.min_clock()
            number = 1 + sum(life.rank == join.rank for life in self.lives)
            life = Life(join.rank, number, join.session, start, self.now)
            self.lives.append(life)
            self.min_clock()
            self.happened.append(("began", life.rank, number))
        life.heard = self.now
        last = self.last(life)
        told_last = last and (last.clock, self.disposition(last))
        place = (self.live().index(life), len(self.live()))
        self._say(
            request,
            (
                "joined",
                self.epoch,
                life.number,
                resumed,
                *place,
                self.clock(life),
                told_last,
                dict(self.barriers.generations),
            ),
        )

    def _end(self, life: Life, reason: Reason) -> None:
        self.min_clock()
        life.ended = reason
        self.min_clock()
        self.happened.append(("ended", life.rank, life.number, reason))
        self._drop_staged(life)
        for waiter in [waiter for waiter in self.waiters if waiter.life is life]:
            self._answer(waiter, self.epitaph(life))
        self.barriers.depart(life, self.epitaph(life))

    def _asked_by_worker(self, request: int, message: Leave | Heartbeat | Pull | Barrier) -> None:
        life = self.find(message.life)
        if not isinstance(life, Life):
            self._say(request, life)
            return
        if life.ended:
            again = isinstance(message, Leave) and life.ended is Reason.LEFT
            self._say(request, ("departed", life.rank) if again else self.epitaph(life))
            return
        life.heard = self.now
        match message:
            case Heartbeat():
                self._say(request, ("renewed", self.lease))
            case Leave():
                self._end(life, Reason.LEFT)
                self._say(request, ("departed", life.rank))
            case Pull():
                self._pull(request, message, life, None)
            case Barrier():
                self.barriers.arrive(request, message, life, now=self.now)

    def _drop_staged(self, life: Life) -> None:
        self.drops += [part.request for part in self.staged(life)]
        self.parts = [part for part in self.parts if part.life is not life]

    # Pulls.

    def _pull(self, request: int, pull: Pull, life: Life | None, pushed: Told | None) -> None:
        if life:
            if pull.clock != self.clock(life) and not self.has_passed(life, pull.clock):
                self._bring(request, pushed, ("refused", "wrong-clock", {"clock": self.clock(life)}))
                return
            self._catch_up(life)
            for older in [waiter for waiter in self.waiters if waiter.life is life]:
                self._answer(older, ("not-yet", Reason.REPLACED, ()))
            if self.until is not None and self.clock(life) >= self.until:
                self._bring(request, pushed, ("refused", "finished", {"clock": self.clock(life)}))
                return
        if self.why_not(pull, life) is None:
            self._bring(request, pushed, self._grant(pull, life))
        elif pull.wait_seconds is None:
            self._bring(request, pushed, self.not_yet(pull, life))
        else:
            self.waiters.append(Waiter(request, life, pull, self.now, pushed))

    def _catch_up(self, life: Life) -> None:
        """A round that has closed without it is over for this worker too: it goes on with the next to open."""
        if self.is_behind(life):
            self._drop_staged(life)
            self.moves.append(Moved(life, self.clock(life), self.next_round(), self.last(life)))
            self.min_clock()

    def _grant(self, pull: Pull, life: Life | None) -> Told:
        unchanged = pull.since is not None and (pull.since.epoch, pull.since.number) == (self.epoch, self.published)
        if life is None:
            return ("granted", self.epoch, self.published, None, None, 0, 0, len(self.live()), unchanged, False, False)
        number = self.open_round.number if self.open_round else None
        clock = self.clock(life)
        self.grants.append(Grant(life, clock, self.published, number, self.now))
        place = (self.live().index(life), len(self.live()))
        last = self.last(life)
        step_failed = last is not None and last.round is not None and self.has_failed(last)
        too_few = last is not None and last.round is not None and last.round.too_few and not last.skip
        lag = clock - self.min_clock()
        return ("granted", self.epoch, self.published, clock, number, lag, *place, unchanged, step_failed, too_few)

    def _answer(self, waiter: Waiter, reply: Told) -> None:
        self.waiters.remove(waiter)
        self._bring(waiter.request, waiter.pushed, reply)

    def _bring(self, request: int, pushed: Told | None, pulled: Told) -> None:
        self._say(request, ("push-pulled", pushed, pulled) if pushed else pulled)

    def _advanced(self, life: Life) -> None:
        """The iteration that an old pull still waits for is over."""
        self.min_clock()
        for waiter in [waiter for waiter in self.waiters if waiter.life is life]:
            if waiter.pull.clock != self.clock(life):
                self._answer(waiter, ("refused", "wrong-clock", {"clock": self.clock(life)}))

    # Pushes.

    def _push(self, request: int, push: Push, norm: float | None) -> None:
        life = self.find(push.life)
        if isinstance(life, Life) and life.ended is None:
            life.heard = self.now
        verdict = self._judge(request, push, life) if isinstance(life, Life) else life
        if verdict is not None:
            self.drops.append(request)
            if verdict:
                self._say(request, verdict)
            return
        assert isinstance(life, Life)
        if push.kind is UpdateKind.SKIP or self.is_late(push, life):
            self.drops.append(request)
            self._drop_staged(life)
            bodies: tuple[int, ...] = ()
        elif self.is_too_large(push, life, norm):
            self._refuse(request, life)
            return
        else:
            self.parts.append(Part(life, push.clock, request, push, norm))
            by_place = {part.push.part: part.request for part in self.staged(life)}
            if len(by_place) < push.parts:
                missing = tuple(place for place in range(push.parts) if place not in by_place)
                self._say(request, ("staged", push.clock, missing))
                return
            bodies = tuple(by_place[place] for place in range(push.parts))
        norms = [part.norm**2 for part in self.staged(life) if part.norm is not None]
        self.parts = [part for part in self.parts if part.life is not life]
        self._accept(request, push, life, bodies, sum(norms) ** 0.5 if norms else None)

    def _judge(self, request: int, push: Push, life: Life) -> Told | None:
        """None: it may be taken. An empty tuple: nothing to say, or said already."""
        last = self.last(life)
        if last is None or (last.clock, last.parts) != (push.clock, push.parts):
            return self.refusal(push, life)
        if self.is_final(last):
            self._tell(request, push, last, repeated=True)
        else:
            last.askers.append((request, push))
        return ()

    def _accept(self, request: int, push: Push, life: Life, bodies: tuple[int, ...], norm: float | None) -> None:
        number = staleness = None
        if bodies:
            self.conduct.append(("accepted", life.rank))
        if bodies and self.mode != "sync":
            number = len(self.decisions) + 1
            staleness = number - push.version - 1
        gathered = self.open_round if self.mode == "sync" else None
        update = Update(
            life, push.clock, push.parts, push.kind, push.samples, bodies, gathered, number, staleness, self.now
        )
        update.norm = norm
        moved = self.has_passed(life, push.clock)
        if self.is_late(push, life):
            update.round = None
            update.late_to = self.clock(life) if moved else self.next_round()
        elif gathered and self.contributions(gathered):
            update.gap = self.now - self.contributions(gathered)[-1].at
        self.updates.append(update)
        end = (self.disposition(update), self._reason(update))
        self.happened.append(("accepted", life.rank, push.clock, *end, push.samples))
        if number is not None:
            update.askers.append((request, push))
            self.decisions.append(Decision(number, updates=(update,)))
            self._apply(self.decisions[-1], False, staleness)
            return
        if not moved:
            self._advanced(life)
        self._tell(request, push, update)

    def _tell(self, request: int, push: Push, update: Update, *, repeated: bool = False) -> None:
        made = (update.number, update.staleness)
        shown = Reason.REPEATED if repeated else self._reason(update)
        if update.number is not None and self.has_failed(update):
            shown, made = Reason.STEP_FAILED, (None, None)
        pushed = ("pushed", update.clock, self.disposition(update), shown, *made, update.late_to)
        if not push.pull:
            self._say(request, pushed)
        elif update.life.ended:
            self._say(request, ("push-pulled", pushed, self.epitaph(update.life)))
        else:
            self._settle()
            pull = Pull("default", push.life, update.next_clock, since=push.since, wait_seconds=push.wait_seconds)
            self._pull(request, pull, update.life, pushed)

    def _reason(self, update: Update) -> Reason:
        if update.late_to is not None:
            return Reason.ROUND_CLOSED
        return Reason.SKIPPED if update.skip else Reason.IN_ROUND if update.round else Reason.ON_ARRIVAL

    def _apply(self, decision: Decision, aggregated: bool, staleness: int) -> None:
        who = tuple((update.life.rank, update.samples, update.bodies) for update in decision.updates)
        kind = decision.updates[0].kind
        self.applies.append((decision.number, kind, who, aggregated, len(self.live()), staleness))

    # Bad workers.

    def _refuse(self, request: int, life: Life) -> None:
        self.drops.append(request)
        self.conduct.append(("too large", life.rank))
        count = self.offences(life.rank)
        if count < self.after:
            facts = {"refused": count, "quarantine_after": self.after}
            self._say(request, ("refused", "update-too-large", facts))
            return
        self._keep_out(life.rank)
        self._say(request, self.epitaph(life))

    def _keep_out(self, rank: str) -> None:
        self.conduct.append(("kept out", rank))
        self.happened.append(("quarantined", rank))
        for life in [life for life in self.live() if life.rank == rank]:
            self._end(life, Reason.QUARANTINED)

    def _let_in(self, request: int, rank: str) -> None:
        if not self.is_kept_out(rank):
            self._say(request, ("refused", "invalid-value", {}))
            return
        self.conduct.append(("let in", rank))
        self.happened.append(("released", rank))
        self._say(request, ("quarantine", rank, False))

    # Rounds, and whoever may go on.

    def _settle(self) -> None:
        if not self.stopping:
            self._settle_rounds()
        for waiter in list(self.waiters):
            if not self.stopping and self.why_not(waiter.pull, waiter.life) is None:
                self._answer(waiter, self._grant(waiter.pull, waiter.life))
        if self.stopping:
            stopping = ("refused", "stopping", {})
            self.barriers.send_away(stopping)
            for waiter in list(self.waiters):
                self._answer(waiter, stopping)
        if not self.finished and self.is_done():
            self.finished = True
            self.barriers.end()
            self.happened.append(("finished",))

    def _settle_rounds(self) -> None:
        if self.open_round and self.is_over(self.open_round):
            late = self.missing(self.open_round)
            self._close(self.open_round, late)
            for life in late:
                if any(waiter.life is life for waiter in self.waiters):
                    self._catch_up(life)
        if members := self.members():
            self.mode, self.bound, was_switching = "sync", None, self.switching_at is not None
            self.switching_at = None
            if was_switching:
                self._switched()
            self.rounds.append(Round(self.next_round(), members))
            ranks = tuple(life.rank for life in members)
            self.happened.append(("round-opened", self.rounds[-1].number, ranks))
            if was_switching:
                for life in [waiter.life for waiter in self.waiters if waiter.life]:
                    self._catch_up(life)

    def _close(self, group_round: Round, without: Sequence[Life] = ()) -> None:
        group_round.closed = True
        updates = [update for update in self.contributions(group_round) if not update.skip]
        updates.sort(key=lambda update: natural(update.life.rank))
        ranks = tuple(update.life.rank for update in updates)
        samples = sum(update.samples for update in updates)
        group_round.too_few = bool(updates) and len(updates) < self.least
        needed = self.least if group_round.too_few else None
        late = tuple(life.rank for life in sorted(without, key=lambda life: natural(life.rank)))
        self.happened.append(("round-closed", group_round.number, ranks, samples, needed, late))
        if group_round.too_few:
            self.drops += [body for update in updates for body in update.bodies]
        elif updates:
            number = len(self.decisions) + 1
            self.decisions.append(Decision(number, updates=tuple(updates), round=group_round))
            self._apply(self.decisions[-1], True, 0)

    # Keys, policy.

    def _offer(self, request: int, offer: Offer) -> None:
        new: list[str] = []
        kept: list[str] = []
        refusal: Told | None = None
        others = {spec.name for spec in offer.specs} ^ self.specs.keys()
        if offer.whole and self.specs and others:
            refusal = ("refused", "schema-conflict", {"keys": others})
        for spec in offer.specs:
            if refusal:
                break
            if spec.name not in self.specs:
                if self.whole or any(update.bodies for update in self.updates):
                    refusal = ("refused", "schema-closed", {})
                    break
                new.append(spec.name)
            elif self.specs[spec.name] != spec:
                refusal = ("refused", "schema-conflict", {})
                break
            else:
                kept.append(spec.name)
        if offer.whole and not refusal and not (offer.ask and new):
            self.whole = True
        if refusal or offer.ask or not new:
            self.drops.append(request)
            self._say(request, refusal or ("offered", (), tuple(kept), tuple(new)))
            return
        self.specs.update({spec.name: spec for spec in offer.specs})
        self.decisions.append(Decision(len(self.decisions) + 1, request, tuple(new), tuple(kept)))
        self.applies.append(("initialize", self.decisions[-1].number, request, tuple(new)))

    def _switch(self, request: int, message: SetPolicy) -> None:
        asked = tuple(message.terms.to_fields().values())
        if not self._is_policy(*asked) or self._is_useless(asked[0], asked[2]):
            self._say(request, ("refused", "invalid-value", {}))
            return
        _, mode, bound, _, *quorum = self.policy()
        if asked != (mode, bound, *quorum):
            rounds_go_on = (self.mode, asked[0]) == ("sync", "sync")
            if self.open_round and not rounds_go_on:
                self._close(self.open_round)
            wanted, self.bound, self.quorum, self.grace = asked
            if wanted != "sync" or rounds_go_on:
                self.mode, self.switching_at = wanted, None
                self._switched()
            else:
                reached = [self.clock(life) + bool(self.granted(life)) for life in self.live()]
                self.switching_at = max(reached, default=self.min_clock())
                self.first_round = self.switching_at
                self.old_rounds += self.rounds
                self.rounds = []
                self.paced_from = len(self.updates)
                self.mode = "async"
                awaited = self.awaited()
                self.happened.append(("switch-begun", wanted, self.switching_at, *asked[2:], awaited))
        self._say(request, self.policy())

    def _is_useless(self, mode: str, quorum: int | None) -> bool:
        """Whether nothing that is pushed would ever be in a step."""
        if mode == "sync":
            return quorum is not None and quorum < self.least
        updates = [[one for one in self.updates if one.life is life and not one.skip] for life in self.live()]
        whole = any(mine and mine[-1].kind is UpdateKind.MODEL for mine in updates)
        return self.rounds_only or whole

    def _switched(self) -> None:
        _, mode, bound, _, *quorum = self.policy()
        self.happened.append(("switched", mode, bound, len(self.decisions), *quorum))

    def _is_policy(self, mode: str, bound: int | None, quorum: int | None, grace: float | None) -> bool:
        if mode == "ssp":
            return bound is not None and bound >= 0 and quorum is None and grace is None
        if bound is not None or mode not in ("sync", "async"):
            return False
        if quorum is None or mode == "async":
            return quorum is None and grace is None
        return quorum >= 1 and (grace is None or grace >= 0)
