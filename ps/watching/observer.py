"""What is told of the run: log lines, counts, and the state for `/v1/status` and `/metrics`.

The one rule: it only looks. Nothing here changes what is decided or when it is carried out.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import structlog

from leeway.protocol import limits, routes
from leeway.protocol.codes import Code
from leeway.protocol.offers import Offer
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Disposition, Push, PushPulled
from leeway.protocol.ranks import natural
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.ps.core import describe
from leeway.ps.core.decisions import in_words
from leeway.ps.core.effects import (
    Accepted,
    Apply,
    Began,
    Create,
    Ended,
    Finished,
    Over,
    Parked,
    PassedOver,
    Quarantined,
    Released,
    RoundClosed,
    RoundOpened,
    SwitchBegun,
    Switched,
)
from leeway.ps.core.events import Asked, Paused, Stop
from leeway.ps.core.rounds import RoundState
from leeway.ps.watching.curve import Progress, mean_figures
from leeway.ps.watching.decision_log import Kind
from leeway.ps.watching.lateness import Lateness
from leeway.ps.watching.logs import Doublings, OnChange
from leeway.ps.watching.metrics import GroupView, WorkerState, WorkerView
from leeway.ps.watching.reported import Reported
from leeway.ps.watching.stages import StageTimes
from leeway.ps.watching.tallies import Tally
from leeway.ps.watching.unused import UPDATES, Unused
from leeway.ps.watching.waits import Waits
from leeway.release import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from leeway.protocol.messages import Reply, Request
    from leeway.protocol.policy_terms import PolicyTerms
    from leeway.ps.arithmetic.parameters import Parameters, Step
    from leeway.ps.arithmetic.versions import Snapshot
    from leeway.ps.core.effects import Effect
    from leeway.ps.core.events import Event
    from leeway.ps.core.groups import Group
    from leeway.ps.core.machine import Machine
    from leeway.ps.watching.decision_log import DecisionLog
    from leeway.ps.watching.metrics import ServerMetrics


# A pause as long as this is worth a line; shorter ones are counted.
TOLD_PAUSE_SECONDS = 1.0
_COUNTS_FOR_NOBODY = "stopped, suspended or too busy; leases, waits and deadlines go on from where they were"

_ENDS_BY_FIGURES = "--until-metric and --until-flat go by what workers report with their updates, by its exact name"

# Waits for the server's own arithmetic: nobody decided them, and every run has them.
_ARITHMETIC = (Reason.OWN_UPDATE, Reason.WAITING_FOR_STEP)

# What an exception says may be long; a line of the live page is not.
_DETAIL_CHARACTERS = 300


class Observer:
    """`clock`: the one whose seconds the machine is given."""

    def __init__(
        self,
        machine: Machine,
        parameters: Mapping[str, Parameters],
        metrics: ServerMetrics,
        decisions: DecisionLog,
        clock: Callable[[], float],
    ) -> None:
        self._machine = machine
        self._parameters = parameters
        self._metrics = metrics
        self._decisions = decisions
        self._clock = clock
        self._waits = Waits(machine.groups)
        self._log = structlog.get_logger("ps")
        # Why a worker waits is told once per life and reason: under `sync` it changes twice in every round.
        self._new = OnChange()
        self._reported = Reported()
        self._unused = Unused(machine)
        self._lateness = Lateness()
        self._stages = StageTimes()
        # What goes on in a group, until it is over; and with a worker, for the rest of its life.
        self._of_group = Doublings()
        self._of_life: defaultdict[str, Doublings] = defaultdict(Doublings)
        self._tallies: dict[str, Tally] = {}
        # Since when each round is open; one that was saved open is so since the start.
        groups = machine.groups.items()
        self._opened_at = {name: clock() for name, group in groups if group.rounds.state is RoundState.OPEN}
        self._not_finite: dict[str, set[str]] = {}
        metrics.quarantined(len(machine.quarantines.why))
        for name in machine.groups:
            self._begin(name)
            # One that was resumed from.
            self.published(name, parameters[name].versions.current)

    def _begin(self, group: str) -> None:
        self._tallies[group], self._not_finite[group] = Tally(), set()
        self._metrics.begin_group(group)

    def took(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        """The machine has taken an event; its effects are about to be performed."""
        self._waits.see(event, effects, now)
        self._lateness.see(effects)
        if isinstance(event, Asked) and isinstance(event.message, Push):
            self._told_times(event.message)
        if isinstance(event, Paused):
            self._metrics.paused(event.seconds)
            if event.seconds >= TOLD_PAUSE_SECONDS:
                self._log.warning("the server stood still", seconds=round(event.seconds, 3), detail=_COUNTS_FOR_NOBODY)
        if isinstance(event, Stop):
            for name in sorted(self._machine.endings.unheard):
                self._log.warning("a figure was never told", name=name, detail=_ENDS_BY_FIGURES)
        for effect in effects:
            if isinstance(effect, Accepted):
                self._accepted(effect)
            self._decided(effect, now)

    def _told_times(self, push: Push) -> None:
        life, times = push.life, push.times
        member = self._machine.membership.of_rank(life.rank)
        if life.stage is not None and times is not None and member is not None and member.number == life.incarnation:
            self._stages.tell(life.rank, life.stage, times)

    def _accepted(self, effect: Accepted) -> None:
        if effect.disposition is not None:
            self._metrics.pushed(effect.group, effect.disposition, effect.reason)
            self._tallies[effect.group].updates += effect.disposition is Disposition.HELD
            if effect.disposition is Disposition.LATE:
                self._late(effect)
        if effect.figures:
            self._report(effect.rank, effect.figures)
        for name in self._unused.figures():
            detail = (
                f"{_ENDS_BY_FIGURES}; in the first {UPDATES} updates were {', '.join(self._reported.names) or 'none'}"
            )
            self._log.warning("a figure was not told yet", name=name, detail=detail)

    def _late(self, effect: Accepted) -> None:
        self._metrics.late(effect.group, effect.samples)
        if count := self._of_life[effect.rank].count((Kind.LATE, effect.group)):
            more = f"; {count} of its updates were late" if count > 1 else ""
            detail = f"its update of iteration {effect.clock} is dropped, the round has closed without it{more}"
            self._log.info("late", rank=effect.rank, group=effect.group, late=count, detail=detail)
            self._decisions.add(Kind.LATE, detail, rank=effect.rank, group=effect.group, reason=str(effect.reason))

    def _report(self, rank: str, figures: Mapping[str, float]) -> None:
        if left_out := self._reported.take(rank, figures):
            self._metrics.left_out(len(left_out))
            if count := self._of_life[rank].count("figures left out"):
                most = f"at most {limits.MAX_METRIC_NAMES} names at once, of {limits.MAX_METRIC_NAME_BYTES} bytes each"
                self._log.warning("figures left out", rank=rank, name=left_out[0][:80], pushes=count, detail=most)

    def _decided(self, effect: Effect, now: float) -> None:
        match effect:
            case Parked(group=group, rank=rank, incarnation=incarnation, reason=reason, detail=detail):
                if reason not in _ARITHMETIC and self._new((group, rank, incarnation, reason), True):
                    # A named barrier is of no group.
                    where = group if len(self._machine.groups) > 1 else None
                    named = {} if where is None else {"group": where}
                    self._log.info("waits", who=effect.who, **named, reason=str(reason), detail=detail)
                    self._decisions.add(Kind.WAITS, detail, group=where, rank=rank, reason=str(reason))
            case Create(group):
                self._begin(group)
                self._log.info("a part begins", group=group, detail="a worker has named it")
                if unused := self._unused.tables():
                    detail = f"{group} has none, and nobody has joined {', '.join(unused)}: is a name spelt otherwise?"
                    self._log.warning("settings of a part are not used yet", group=group, detail=detail)
            case Began(rank, incarnation):
                self._metrics.joined()
                self._log.info("joined", rank=rank, incarnation=incarnation)
                self._decisions.add(Kind.JOINED, f"life {incarnation} of this rank", rank=rank)
            case Ended(rank, incarnation, reason, detail):
                self._metrics.departed(reason)
                self._reported.forget(rank)
                self._stages.forget(rank)
                self._of_life.pop(rank, None)
                log = self._log.info if reason is Reason.LEFT else self._log.warning
                log("ended", rank=rank, incarnation=incarnation, reason=str(reason), detail=detail)
                self._decisions.add(Kind.ENDED, detail, rank=rank, reason=str(reason))
            case Quarantined(rank, why):
                self._metrics.quarantined(len(self._machine.quarantines.why))
                self._log.warning("quarantined", rank=rank, detail=why)
                self._decisions.add(Kind.QUARANTINED, why, rank=rank)
            case Released(rank):
                self._metrics.quarantined(len(self._machine.quarantines.why))
                self._log.info("released", rank=rank, detail="it may join again")
                self._decisions.add(Kind.RELEASED, "it may join again", rank=rank)
            case PassedOver(group, rank, clock):
                detail = (
                    f"it is an iteration off, having joined between two parts: {group} goes on without it until {clock}"
                )
                self._log.info("passed over", rank=rank, group=group, detail=detail)
            case RoundOpened(group, number, members):
                self._opened_at[group] = now
                self._log.debug("round opens", group=group, round=number, members=members)
            case RoundClosed(group, number, contributors, samples, needed, late):
                self._metrics.round_closed(group, now - self._opened_at.pop(group))
                facts = {"of": contributors, "samples": samples, "late": late}
                self._log.debug("round closes", group=group, round=number, **facts)
                if needed is not None:
                    self._too_few(group, number, len(contributors), needed)
            case SwitchBegun(group, terms, at, waiting_for):
                self._log.info("switching", group=group, at=at, waiting_for=waiting_for, **_facts(terms))
                whom = f"; it waits for {in_words(waiting_for)}" if waiting_for else ""
                detail = f"to {_in_words(terms)}, from iteration {at} on{whom}"
                self._decisions.add(Kind.SWITCHING, detail, group=group, mode=terms.mode)
            case Switched(group, terms, switch_point):
                self._metrics.switched(group)
                self._log.info("switched", group=group, after=switch_point, **_facts(terms))
                detail = f"to {_in_words(terms)}, after version {switch_point}"
                self._decisions.add(Kind.SWITCHED, detail, group=group, mode=terms.mode)
            case Over(why):
                self._log.info("the run is over", detail=f"{why}; whoever computes is waited for")
                self._decisions.add(Kind.OVER, why)
            case Finished():
                why = self._machine.over or "every group has come to its end"
                self._log.info("finished", until=self._machine.settings.until, detail=why)
                self._decisions.add(Kind.FINISHED, why)
            case _:
                pass

    def _too_few(self, group: str, number: int, updates: int, needed: int) -> None:
        """A round makes no step. Where too few workers are left, none will."""
        self._metrics.round_without_step(group)
        self._tallies[group].too_few()
        count = self._of_group.count((Kind.TOO_FEW_UPDATES, group))
        if not count:
            return
        were = "was 1 update" if updates == 1 else f"were {updates} updates"
        detail = (
            f"there {were} in round {number}, and {self._parameters[group].rule} needs {needed}: nothing is published"
        )
        more = f"; so it was in {count} rounds in a row" if count > 1 else ""
        facts = {"updates": updates, "needed": needed, "in_a_row": count}
        self._log.warning("too few updates", group=group, round=number, **facts, detail=detail + more)
        self._decisions.add(Kind.TOO_FEW_UPDATES, detail + more, group=group, reason=str(Reason.TOO_FEW_UPDATES))

    def answered(self, request: Request, reply: Reply, waited_for: Reason, seconds: float) -> None:
        """`seconds` from the request's arrival; `waited_for`: why it was parked last, `GRANTED` if it was not."""
        if isinstance(request, Offer) and isinstance(reply, Refused):
            self._log.warning("offer refused", code=str(reply.error.code), detail=reply.error.detail)
        if not isinstance(request, (Pull, Push)):
            return
        if isinstance(request, Push) and isinstance(reply, Refused) and reply.error.code is Code.UPDATE_TOO_LARGE:
            self._too_large(request, reply.error.detail)
        pulled = reply.pulled if isinstance(reply, PushPulled) else reply
        if isinstance(reply, PushPulled) and isinstance(pulled, Refused):
            # Refusals that are the whole reply become problem documents and are counted with those.
            self._metrics.refused(routes.PARAMS, pulled.error.code)
        if isinstance(pulled, Refused) and pulled.error.code is Code.DEADLOCK and request.life:
            self._log.warning("deadlock", rank=request.life.rank, group=request.group, detail=pulled.error.detail)
        if isinstance(pulled, (Granted, NotYet)) and request.life:
            self._metrics.pull_answered(request.group, waited_for, seconds)
        if isinstance(pulled, Granted):
            if request.life:
                self._metrics.pull_granted(request.group, pulled.lag)
            if pulled.unchanged:
                self._metrics.spared(request.group, self._parameters[request.group].versions.current.layout.nbytes)

    def stepped(self, apply: Apply, step: Step, update_bytes: Sequence[int], seconds: float) -> None:
        """A version was made, in so many seconds, from updates of these sizes."""
        staleness = [apply.staleness] * len(apply.contributions)
        tally = self._tallies[apply.group]
        tally.stepped(staleness, step.gradient_norm)
        self._of_group.over((Kind.TOO_FEW_UPDATES, apply.group))
        self._of_group.over(_failing(apply.group, apply))
        if not apply.aggregated:
            self._metrics.pushed(apply.group, Disposition.APPLIED, Reason.ON_ARRIVAL)
            tally.updates += 1
        self._metrics.stepped(apply.group, seconds, staleness, update_bytes, step.gradient_norm)

    def published(self, group: str, snapshot: Snapshot) -> None:
        """A version that is not finite is published as what it is, and told: each tensor of it at once, and again while
        the versions after it are so too.
        """
        known = self._not_finite[group]
        if not snapshot.non_finite:
            known.clear()
            self._of_group.over((Kind.NON_FINITE, group))
            return
        self._metrics.non_finite_version(group)
        unheard = [name for name in snapshot.non_finite if name not in known]
        known.update(unheard)
        count = self._of_group.count((Kind.NON_FINITE, group))
        if unheard or count:
            first, *others = unheard or snapshot.non_finite
            self._log.error(
                "a version is not finite",
                group=group,
                version=snapshot.number,
                tensor=first,
                others=len(others),
                detail="it is published as it is; lower the learning rate, and go back to a checkpoint or other values",
            )
            more = f" and {len(others)} others" if others else ""
            more += f"; so it was in {count} versions in a row" if count > 1 else ""
            detail = f"version {snapshot.number} has a NaN or an infinity in {first!r}{more}"
            self._decisions.add(Kind.NON_FINITE, detail, group=group)

    def step_failed(self, group: str, number: int, apply: Apply | None, error: Exception) -> None:
        """Version `number` has the values of the one before it. `apply` None: it was to add offered keys."""
        self._metrics.step_failed(group)
        if apply is not None and not apply.aggregated:
            self._metrics.pushed(group, Disposition.SKIPPED, Reason.STEP_FAILED)
        count = self._of_group.count(_failing(group, apply))
        if not count:
            return
        of = ", ".join(contribution.rank for contribution in apply.contributions) if apply else "an offer"
        detail = f"version {number} is the one before it again, without {of}: {type(error).__name__}: {error}"
        more = f"; {count} steps in a row have failed" if count > 1 else ""
        self._log.error("step failed", group=group, version=number, detail=detail + more, exc_info=error)
        self._decisions.add(Kind.STEP_FAILED, detail[:_DETAIL_CHARACTERS] + more, group=group, reason="step-failed")

    def non_finite(self, push: Push, tensor: str, *, refused: bool) -> None:
        self._metrics.non_finite(push.group)
        rank, words = push.life.rank, f"non-finite update {'refused' if refused else 'let through'}"
        count = self._of_life[rank].count((Kind.NON_FINITE, push.group))
        if not count:
            return
        self._log.warning(words, group=push.group, rank=rank, clock=push.clock, tensor=tensor, updates=count)
        more = f"; {count} of its updates were so" if count > 1 else ""
        detail = f"{words}: {tensor!r} of iteration {push.clock}{more}"
        self._decisions.add(Kind.NON_FINITE, detail, group=push.group, rank=rank)

    def _too_large(self, push: Push, why: str) -> None:
        rank = push.life.rank
        if count := self._of_life[rank].count((Kind.UPDATE_TOO_LARGE, push.group)):
            more = f"; {count} of its updates were so" if count > 1 else ""
            self._log.warning("update too large", group=push.group, rank=rank, clock=push.clock, detail=why + more)
            detail = f"iteration {push.clock}: {why}{more}"
            self._decisions.add(Kind.UPDATE_TOO_LARGE, detail, group=push.group, rank=rank)

    def same_updates(self, push: Push, other: str, *, certain: bool) -> None:
        """Two ranks have pushed the same: `certain`, their values were compared, not their sums alone."""
        pair = " and ".join(sorted((other, push.life.rank), key=natural))
        likely = "the same update" if certain else "most likely the same update"
        detail = (
            f"{pair} push {likely}, as of iteration {push.clock}: do both read the same data? Cut it by index and count"
            " (leeway.Sampler), or give each a seed of its own. This is said once in each group"
        )
        self._log.warning("same updates", group=push.group, rank=push.life.rank, other=other, detail=detail)
        self._decisions.add(Kind.SAME_UPDATES, detail, group=push.group, rank=push.life.rank)

    def configured(self, group: str, changes: Mapping[str, Any], why: str) -> None:
        """`why`: where nobody has asked for it, else empty."""
        self._log.info("optimizer changed", group=group, **changes, **({"detail": why} if why else {}))
        changed = ", ".join(f"{name} {value}" for name, value in changes.items())
        self._decisions.add(Kind.OPTIMIZER, f"{changed}: {why}" if why else changed, group=group)

    def slow_reader_closed(self) -> None:
        self._metrics.slow_reader_closed()
        detail = "it held an old version's memory for too long"
        self._log.warning("slow reader closed", detail=detail)
        self._decisions.add(Kind.SLOW_READER, detail)

    def status(self, now: float) -> dict[str, Any]:
        status = describe.status(self._machine, now)
        for worker in status["workers"]:
            rank = worker["rank"]
            worker["reported"] = dict(self._reported.of(rank))
            if stages := worker.get("stages"):
                lease = self._machine.settings.lease_seconds
                left = [lease if each["state"] == "left" else each["lease_left_seconds"] for each in stages]
                worker["holding"] = self._stages.holding(rank, len(stages), left, lease)
                for stage in stages:
                    stage |= self._stages.of(rank, stage["stage"])
            for name, progress in worker["groups"].items():
                progress["waiting_seconds"] = round(self._waits.waiting_seconds(name, rank, now), 6)
                progress["held_seconds"] = round(self._waits.held_seconds(name, rank, now), 6)
                progress["late_updates"], progress["newest_late"] = self._lateness.of(name, rank)
        for name, group in status["groups"].items():
            parameters = self._parameters[name]
            group["aggregation"] = str(parameters.rule)
            group["live_versions"] = parameters.versions.live
            group["learning_rate"] = parameters.settings.learning_rate(parameters.steps)
            group["steps"] = parameters.steps
            group |= self._tallies[name].to_fields()
        return status | {"program": {"version": __version__}, "time": round(time.time(), 3)}

    def progress(self) -> dict[str, Progress]:
        """How far each group is."""
        return {
            name: Progress(
                group.published,
                self._tallies[name].updates,
                group.min_clock,
                mean_figures(self._reported.of(member.rank) for member in group.roster),
            )
            for name, group in self._machine.groups.items()
        }

    def views(self) -> list[GroupView]:
        """The state, for the metrics."""
        now = self._clock()
        return [self._view(name, group, now) for name, group in self._machine.groups.items()]

    def _view(self, name: str, group: Group, now: float) -> GroupView:
        parameters = self._parameters[name]
        return GroupView(
            name,
            version=group.published,
            live_versions=parameters.versions.live,
            min_clock=group.min_clock,
            workers=[
                WorkerView(
                    member.rank,
                    clock=member.groups[name].clock,
                    lag=member.groups[name].clock - group.min_clock,
                    state=WorkerState.WAITING if group.waiting.of(member) else WorkerState.COMPUTING,
                    waiting_seconds=self._waits.waiting_seconds(name, member.rank, now),
                    held_seconds=self._waits.held_seconds(name, member.rank, now),
                    reported=self._reported.of(member.rank),
                )
                for member in group.roster
            ],
            policy=group.policy.terms.mode,
            staleness_bound=group.policy.terms.staleness,
            learning_rate=parameters.settings.learning_rate(parameters.steps),
            missing_stages={
                rank: len(forming.missing)
                for rank, forming in self._machine.joins.forming.items()
                if forming.group == name
            },
        )


def _facts(terms: PolicyTerms) -> dict[str, Any]:
    """For a line of the log; without a quorum where there is none."""
    bound = {"mode": terms.mode, "staleness": terms.staleness}
    return bound if terms.quorum is None else bound | {"quorum": terms.quorum, "grace_seconds": terms.grace_seconds}


def _in_words(terms: PolicyTerms) -> str:
    bound = "" if terms.staleness is None else f" with a bound of {terms.staleness}"
    return terms.mode + (
        bound if terms.quorum is None else f" with a quorum of {terms.quorum} and a grace of {terms.grace_in_words}"
    )


def _failing(group: str, apply: Apply | None) -> tuple[str, ...]:
    """Whose steps fail: those of rounds, or of offers, are the group's; on arrival each worker has its own."""
    ranks = [each.rank for each in apply.contributions] if apply and not apply.aggregated else []
    return (Kind.STEP_FAILED, group, *ranks)
