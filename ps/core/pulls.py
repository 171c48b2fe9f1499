"""The pulls of a group: whether one is answered, and with what; who waits, why and for whom.

The one rule: what holds under every policy is judged here (there is something to read, it is new enough, it contains
the worker's own updates), and only then is the policy asked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from leeway.protocol.codes import Code
from leeway.protocol.pulls import Granted, NotYet
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.protocol.versions import Version
from leeway.ps.core.decisions import Answer, Park
from leeway.ps.core.effects import Advanced, WaitingFor
from leeway.ps.core.rounds import RoundState
from leeway.ps.core.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.protocol.pulls import Pull
    from leeway.protocol.pushes import Pushed
    from leeway.protocol.refusals import Refused
    from leeway.ps.core.decisions import Decision
    from leeway.ps.core.lives import Incarnation
    from leeway.ps.core.situation import Situation


class Pulls:
    def __init__(self, group: Situation) -> None:
        self._group = group
        # What was true of the group when all that wait were last looked at.
        self._settled: object = None
        # Who is waited for, as listeners know it; and whether something else than `_settled` may have changed that.
        self._waited_for: tuple[str, ...] = ()
        self._doubtful = False
        self._left = 0

    # One pull.

    def take(
        self, request: int, pull: Pull, member: Incarnation | None, now: float, pushed: Pushed | None = None
    ) -> None:
        """Answer this pull or park it. `member` None: a reader's. `pushed`: the result of the push it came with."""
        group = self._group
        if member:
            progress = member.groups[group.name]
            stage = pull.life.stage if pull.life else None
            if pull.clock != progress.clock and not progress.has_passed(pull.clock):
                group.waiting.say(request, pushed, _wrong_clock(member, pull.clock, progress.clock))
                return
            if member.is_replica and progress.grants:
                self._grant_again(request, pull, member, pushed)
                return
            self.catch_up(member)
            if older := group.waiting.of_stage(member, stage):
                newer = NotYet(Reason.REPLACED, f"a newer pull of {member} was asked in place of this one")
                group.waiting.answer(older, newer)
            if why := group.is_over_at(progress.clock):
                self._release_from_round(member)
                group.waiting.say(request, pushed, refuse(Code.FINISHED, why, clock=progress.clock))
                return
        decision = self.judge(pull, member)
        if isinstance(decision, Answer):
            group.waiting.say(request, pushed, self._grant(pull, member, decision, now))
        elif pull.wait_seconds is None:
            group.waiting.say(request, pushed, decision.to_reply())
        else:
            until = now + pull.wait_seconds
            group.waiting.park(Waiting(request, pull, member, until, pushed), decision)
            # At the stop nobody is parked.
            if member and not self._waited_for and group.waiting.of(member):
                self._wait_for(decision)

    def _grant_again(self, request: int, pull: Pull, member: Incarnation, pushed: Pushed | None) -> None:
        """Another stage, or the same one again: the iteration is the replica's, with its version and its data."""
        group = self._group
        progress = member.groups[group.name]
        if granted := progress.granted:
            lag, unchanged = progress.clock - group.min_clock, pull.since == granted.version
            group.waiting.say(request, pushed, replace(granted, lag=lag, unchanged=unchanged))
            return
        group.lose(member, f"what {member} was granted is gone with a restart of the server")
        assert pull.life is not None
        group.waiting.say(request, pushed, member.refusal(pull.life.stage))

    def _release_from_round(self, member: Incarnation) -> None:
        """It is told that the end has come, so it will push no more."""
        group = self._group
        member.groups[group.name].take_back()
        if group.rounds.state is RoundState.OPEN:
            group.rounds.remove(member.rank)

    def catch_up(self, member: Incarnation) -> None:
        """Move a worker whose round has gone by without it to the next round to open; the reply to its pull says so."""
        group = self._group
        progress = member.groups[group.name]
        clock = group.policy.caught_up(group, member.rank)
        if clock != progress.clock:
            group.drop_staged(progress)
            group.roster.move(member, clock)
            group.emit(Advanced(group.name, member.rank, clock))

    def judge(self, pull: Pull, member: Incarnation | None) -> Decision:
        """May this pull be answered now?"""
        group = self._group
        if not group.readable and group.declared is not None:
            left, of = len(group.declared.keys() - group.specs.keys()), len(group.declared)
            detail = f"{left} of the {of} tensors of group {group.name} are still to be offered by stages"
            return Park(Reason.NO_PARAMETERS, detail)
        if not group.readable:
            return Park(Reason.NO_PARAMETERS, f"group {group.name} has no parameters yet; nobody has offered any")
        if group.published < pull.min_version:
            return Park(Reason.MIN_VERSION, f"version {pull.min_version} is not out, the newest is {group.published}")
        if member is None:
            return Answer(Reason.READER)
        if group.published < group.named_from:
            return Park(Reason.NO_PARAMETERS, f"group {group.name} is being given the names of the model")
        progress = member.groups[group.name]
        if group.published < progress.owed:
            return Park(Reason.OWN_UPDATE, f"version {progress.owed} with {member}'s own update is being made")
        return group.policy.pull(group, member.rank)

    def _grant(self, pull: Pull, member: Incarnation | None, decision: Answer, now: float) -> Granted:
        """Answer with the newest version, and remember for the push what it was answered with."""
        group = self._group
        version = Version(group.epoch, group.published)
        if member is None:
            return Granted(version, decision.reason, count=group.live_workers, unchanged=pull.since == version)
        group.started = True
        progress = member.groups[group.name]
        round_number = group.rounds.number if group.rounds.state is RoundState.OPEN else None
        if not progress.grants:
            progress.granted_at = now
        if (group.published, round_number) not in progress.grants:
            progress.grants.append((group.published, round_number))
        granted = Granted(
            version,
            decision.reason,
            clock=progress.clock,
            round=round_number,
            lag=progress.clock - group.min_clock,
            index=group.roster.index_of(member.rank),
            count=group.live_workers,
            unchanged=pull.since == version,
            step_failed=progress.record is not None and progress.record.step_failed,
            too_few=progress.record is not None and progress.record.too_few,
        )
        if member.is_replica:
            progress.granted = granted
        return granted

    # What happens beside them.

    def entered(self) -> None:
        """A worker has joined: who waits may now wait for it too."""
        self._doubtful = True

    def exited(self, member: Incarnation, refusal: Callable[[int | None], Refused]) -> None:
        """The life has ended; nobody waits for it, and its own pulls are told so. `refusal`: by stage."""
        self._doubtful = True
        self._waited_for = tuple(rank for rank in self._waited_for if rank != member.rank)
        self._group.waiting.release(member, refusal)

    def pushed(self, member: Incarnation) -> None:
        """From an older grant a worker may push while it waits; then it waits for that push."""
        self._doubtful = self._doubtful or self._group.waiting.of(member) is not None

    def advanced(self, member: Incarnation, over: int, clock: int) -> None:
        """Iteration `over` had its end: a pull of it that still waits came too late, and is not the pull of `clock`."""
        self._group.waiting.release(member, lambda _: _wrong_clock(member, over, clock))

    def end(self, why: str) -> None:
        """Nobody goes on: workers that wait are told so, and those that have not begun are waited for no more."""
        group = self._group
        for waiting in list(group.waiting.members):
            assert waiting.member is not None, "readers wait among others"
            clock = waiting.member.groups[group.name].clock
            group.waiting.answer(waiting, refuse(Code.FINISHED, why, clock=clock))
        for member in group.roster:
            if not member.groups[group.name].computing:
                self._release_from_round(member)

    # All that wait.

    def awaited(self) -> tuple[str, ...]:
        """The ranks that those who wait for others wait for, as things stand now."""
        if not self._waited_for:
            return ()
        reasons = (self.why(waiting).waiting_for for waiting in self._group.waiting.members)
        return next((ranks for ranks in reasons if ranks), ())

    def stands_still(self, rank: str) -> Waiting | None:
        """Where this rank waits here for others, and asks for nothing else meanwhile: its pull."""
        member = self._group.roster.of_rank(rank)
        waiting = self._group.waiting.of(member) if member and member.one_after_another else None
        return waiting if waiting and self.why(waiting).waiting_for else None

    def look_again(self, now: float) -> None:
        """Answer whoever can go on.

        Costs O(1) when nothing a waiter depends on has changed, O(waiting) when something has.
        """
        group = self._group
        seen = (
            group.min_clock,
            group.published,
            group.policy,
            group.rounds.state,
            group.rounds.number,
            bool(group.specs),
            group.assembled,
        )
        if seen != self._settled:
            self._settled = seen
            found: Park | None = None
            for waiting in group.waiting:
                decision = self.judge(waiting.pull, waiting.member)
                if isinstance(decision, Answer):
                    group.waiting.answer(waiting, self._grant(waiting.pull, waiting.member, decision, now))
                elif found is None and waiting.member and decision.waiting_for:
                    found = decision
            self._wait_for(found)
        elif self._doubtful or group.waiting.left != self._left:
            reasons = (self.why(waiting) for waiting in group.waiting.members)
            self._wait_for(next((why for why in reasons if why.waiting_for), None))
        self._doubtful, self._left = False, group.waiting.left

    def _wait_for(self, why: Park | None) -> None:
        """Under every policy all that wait for others wait for the same ones: the first of them says for whom."""
        ranks = why.waiting_for if why else ()
        if ranks != self._waited_for:
            self._waited_for = ranks
            self._group.emit(WaitingFor(self._group.name, ranks, why.clock if why else 0))

    def why(self, waiting: Waiting) -> Park:
        """Why this pull waits, and for whom, as things stand now."""
        decision = self.judge(waiting.pull, waiting.member)
        assert isinstance(decision, Park), "once settled, nobody waits who can go on"
        return decision

    def expire(self, now: float) -> None:
        """Tell those whose wait has run out."""
        for waiting in self._group.waiting.expired(now):
            self._group.waiting.answer(waiting, self.why(waiting).to_reply())


def _wrong_clock(member: Incarnation, asked: int, clock: int) -> Refused:
    return refuse(
        Code.WRONG_CLOCK, f"{member} pulls iteration {asked}, its clock is {clock}; pull iteration {clock}", clock=clock
    )
