"""The conditions of the contract, asked of the history: who may go on and why not, when a round opens, when it ends.

The one rule: a condition looks and answers, it changes nothing.
"""

from statistics import median
from typing import Any

from leeway.protocol.lives import Life as Named
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.ranks import natural
from leeway.protocol.reasons import Reason
from tests.properties.facts import Life, Round, Update
from tests.properties.history import History

ENDED = {
    Reason.LEFT: "left",
    Reason.NEW_SESSION: "fenced",
    Reason.LEASE_EXPIRED: "evicted",
    Reason.ITERATION_TOO_LONG: "evicted",
    Reason.QUARANTINED: "quarantined",
}

Told = tuple[Any, ...]


class Conditions(History):
    def find(self, named: Named) -> Life | Told:
        if named.epoch != self.epoch:
            return ("refused", "old-epoch", {"epoch": self.epoch})
        for life in self.remembered(named.rank):
            if life.number == named.incarnation:
                return life
        if any(life.rank == named.rank and life.number == named.incarnation for life in self.lives):
            return ("refused", "fenced", {"last": {}})
        return ("refused", "not-joined", {})

    def epitaph(self, life: Life) -> Told:
        last = self.last(life)
        facts = {"default": {"clock": last.clock, "disposition": self.disposition(last)}} if last else {}
        return ("refused", ENDED[life.ended], {"last": facts})

    # Bad workers.

    def is_kept_out(self, rank: str) -> bool:
        decided = [what for what, whose in self.conduct if whose == rank and what in ("kept out", "let in")]
        return decided[-1:] == ["kept out"]

    def offences(self, rank: str) -> int:
        """How many updates of it were too large since something else was said of it."""
        told = [what for what, whose in self.conduct if whose in (rank, "everybody")]
        return next((count for count, what in enumerate(reversed(told)) if what != "too large"), len(told))

    def is_too_large(self, push: Push, life: Life, norm: float | None) -> bool:
        if norm is None:
            return False
        squares = [norm**2, *((part.norm or 0) ** 2 for part in self.staged(life))]
        usual = self.usual(push.kind)
        limits = [limit for limit in (self.most, self.ratio and usual and self.ratio * usual) if limit]
        return any(sum(squares) ** 0.5 > limit for limit in limits)

    def usual(self, kind: UpdateKind) -> float | None:
        """The median of the last eight norms of each live worker, where there are eight in all."""
        norms = []
        for life in self.live():
            its = [one for one in self.updates[self.usual_from :] if one.life is life and one.bodies]
            norms += [one.norm for one in its if one.kind is kind and one.norm is not None][-8:]
        return median(norms) if len(norms) >= 8 else None

    def disposition(self, update: Update) -> str | None:
        if not self.is_final(update):
            return None
        if update.late_to is not None:
            return "late"
        skipped = update.skip or (update.number is not None and self.has_failed(update))
        return "skipped" if skipped else "held" if update.round else "applied"

    def why_not(self, pull: Pull, life: Life | None) -> tuple[Reason, tuple[str, ...]] | None:
        """Why this pull may not be answered, and for whom it waits; None when it may."""
        if not self.something_to_read():
            return Reason.NO_PARAMETERS, ()
        if self.published < pull.min_version:
            return Reason.MIN_VERSION, ()
        if life is None:
            return None
        if self.owed(life) > self.published:
            return Reason.OWN_UPDATE, ()
        clock = self.clock(life)
        if self.switching_at is not None and clock >= self.switching_at:
            behind = self.awaited()
            return (Reason.SWITCHING, behind) if behind else self.why_none_opens()
        if self.switching_at is not None:
            return None
        if self.mode != "sync" and not self.all_have_joined():
            return Reason.WAITING_FOR_WORKERS, ()
        if self.mode == "async":
            return None
        if self.mode == "ssp":
            slowest = self.behind(self.min_clock() + 1)
            return (Reason.LAG, slowest) if clock - self.min_clock() > self.bound else None
        if self.open_round is None:
            behind = () if self.step_in_flight() else self.awaited()
            return (Reason.NEXT_ROUND, behind) if behind else self.why_none_opens()
        missing = self.missing(self.open_round)
        if life in missing:
            return None
        ranks = tuple(one.rank for one in sorted(missing, key=lambda one: natural(one.rank)))
        # A new life of a rank whose old one had contributed waits for the same thing.
        contributed = any(update.life.rank == life.rank for update in self.contributions(self.open_round))
        return (Reason.WAITING_FOR_ROUND if contributed else Reason.NEXT_ROUND), ranks

    def awaited(self) -> tuple[str, ...]:
        """Who has to come to the next round before it opens: all; for the first of a quorum so many are enough, and a
        later one waits for nobody.
        """
        behind = self.behind(self.next_round())
        if self.quorum is None:
            return behind
        there = len(self.live()) - len(behind)
        return behind if self.switching_at is not None and there < self.quorum else ()

    def why_none_opens(self) -> tuple[Reason, tuple[str, ...]]:
        """Though all that the next round waits for have come."""
        if not self.step_in_flight() and len(self.live()) < self.needed():
            return Reason.WAITING_FOR_WORKERS, ()
        # With neither, this pull has just brought somebody there, and a round opens now.
        return (Reason.WAITING_FOR_STEP if self.in_flight() else Reason.NEXT_ROUND), ()

    def needed(self) -> int:
        """How many have to be live for a round to open."""
        return 1 if self.grants or self.rounds or self.old_rounds else self.workers

    def not_yet(self, pull: Pull, life: Life | None) -> Told:
        why = self.why_not(pull, life)
        assert why is not None, f"{pull} could have been answered"
        return ("not-yet", *why)

    def step_in_flight(self) -> bool:
        """Whether the step of the last round is being made, under the policy that gathered it."""
        return any(decision.round in self.rounds for decision in self.in_flight())

    def all_have_joined(self) -> bool:
        """Whether `workers` ranks have joined, be they live or not."""
        return len({life.rank for life in self.lives}) >= self.workers

    def members(self) -> tuple[Life, ...]:
        """Who is in the round that may open now; nobody: none may."""
        number, live = self.next_round(), self.live()
        if self.mode != "sync" and self.switching_at is None:
            return ()
        if self.open_round or self.in_flight() or len(live) < self.needed():
            return ()
        if self.until is not None and number >= self.until:
            return ()
        return () if self.awaited() else tuple(life for life in live if self.clock(life) == number)

    def deadline(self) -> float | None:
        """When the open round closes though some are missing: a grace after its quorum was there."""
        if self.stopping or self.quorum is None or self.open_round is None:
            return None
        came = [update.at for update in self.contributions(self.open_round)]
        enough = min(self.quorum, len(came) + len(self.missing(self.open_round)))
        grace = self.pace() if self.grace is None else self.grace
        return came[enough - 1] + grace if came[:enough] and len(came) >= enough and grace is not None else None

    def pace(self) -> float | None:
        """The grace that the gaps between the contributions advise; None: there were none."""
        gaps = [update.gap for update in self.updates[self.paced_from :] if update.gap is not None][-64:]
        return median(gaps) + 3 * median(abs(gap - median(gaps)) for gap in gaps) if gaps else None

    def is_over(self, group_round: Round) -> bool:
        deadline = self.deadline()
        return not self.missing(group_round) or (deadline is not None and deadline <= self.now)

    def is_behind(self, life: Life) -> bool:
        """Whether the round that it would take part in has closed without it."""
        clock = self.clock(life)
        is_open = self.open_round is not None and self.open_round.number == clock
        return self.mode == "sync" and clock < self.next_round() and not is_open

    def is_late(self, push: Push, life: Life) -> bool:
        in_time = self.open_round is not None and life in self.missing(self.open_round)
        return self.has_passed(life, push.clock) or (self.mode == "sync" and not in_time)

    def is_done(self) -> bool:
        held = self.open_round and self.contributions(self.open_round)
        return self.until is not None and self.min_clock() >= self.until and not self.in_flight() and not held

    def policy(self) -> Told:
        mode = "sync" if self.switching_at is not None else self.mode
        return ("policy", mode, self.bound if mode == "ssp" else None, self.switching_at, self.quorum, self.grace)

    def refusal(self, push: Push, life: Life) -> Told | None:
        """What a push is told that is not the life's last one again; None when it may be taken."""
        last, clock = self.last(life), self.clock(life)
        if self.has_passed(life, push.clock) and not life.ended:
            return None
        if push.clock < clock or (last and last.clock == push.clock):
            return ("refused", "superseded", {"clock": clock})
        if life.ended:
            return self.epitaph(life)
        if push.clock != clock:
            return ("refused", "wrong-clock", {"clock": clock})
        if not any((grant.version, grant.round) == (push.version, push.round) for grant in self.granted(life)):
            return ("refused", "not-granted", {"clock": clock})
        if push.kind is UpdateKind.SKIP:
            return None
        staged = [part.push for part in self.staged(life)]
        for other in staged:
            ours, theirs = ((one.parts, one.version, one.round, one.kind, one.samples) for one in (push, other))
            if ours != theirs:
                return ("refused", "inconsistent-parts", {})
        there = {other.part for other in staged}
        if push.part in there:
            return ("staged", push.clock, tuple(place for place in range(push.parts) if place not in there))
        if any(set(other.keys) & set(push.keys) for other in staged):
            return ("refused", "inconsistent-parts", {})
        if push.kind is UpdateKind.MODEL and self.mode != "sync":
            return ("refused", "invalid-value", {})
        if self.mode == "sync" and self.open_round and not self.is_late(push, life):
            kinds = {update.kind for update in self.contributions(self.open_round) if not update.skip}
            if kinds - {push.kind}:
                return ("refused", "invalid-value", {})
        return None
