"""The invariants can fail: each of these servers (and one worker) is broken in one way, and is found out."""

import dataclasses
from unittest.mock import Mock

import pytest

from leeway.protocol.pushes import Disposition, Push, Pushed
from leeway.protocol.reasons import Reason
from leeway.ps.core import machine, saved
from leeway.ps.core.decisions import Answer, Park
from leeway.ps.core.deduplication import Fresh, Repeat, judge
from leeway.ps.core.effects import Answered, Apply
from leeway.ps.core.endings import Endings
from leeway.ps.core.groups import Group
from leeway.ps.core.in_flight import RoundStep
from leeway.ps.core.machine import Machine
from leeway.ps.core.membership import Membership
from leeway.ps.core.offerings import Offerings
from leeway.ps.core.policies import Quorum, Ssp
from leeway.ps.core.policies.gathering import Gathering
from leeway.ps.core.policies.policy import Reception
from leeway.ps.core.policies.switching import Switching
from leeway.ps.core.progress import Record
from leeway.ps.core.pulls import Pulls
from leeway.ps.core.pushes import Pushes
from leeway.ps.core.roster import Roster
from leeway.ps.core.round_keeper import RoundKeeper
from leeway.ps.core.rounds import Rounds
from leeway.ps.core.waiting import WaitingRoom
from leeway.worker.session.conversation import Conversation
from tests.guarantees import Violated
from tests.simulation.simulation import QUORUMS, Simulation, Unfinished

SSP = [("ssp", bound) for bound in range(3)]
EAGER = [("async",), ("ssp", 2)]


def found_out(guarantee, *, seeds=300, of=Simulation, **chosen):
    """Some seed breaks this guarantee, and none before it breaks another."""

    def play():
        for seed in range(seeds):
            # Steps fail where that is what is looked for: elsewhere they would only change what each seed is about.
            of(seed, **({"failing": 0.0, "least": 1} | chosen)).run()

    with pytest.raises((Violated, Unfinished), match=guarantee):
        play()


def test_waking_only_those_at_the_new_minimum(monkeypatch):
    """The trap of Bosen: the minimum can jump past the clock that a waiter waits for."""
    settling = []
    settle, pull = Group.settle, Ssp.pull

    def broken_settle(self, now):
        settling.append(self)
        settle(self, now)
        settling.pop()

    def broken_pull(self, view, rank):
        decision = pull(self, view, rank)
        exact = view.clock_of(rank) - view.min_clock == self.staleness
        if settling and isinstance(decision, Answer) and not exact:
            return Park(Reason.LAG, "missed")
        return decision

    monkeypatch.setattr(Group, "settle", broken_settle)
    monkeypatch.setattr(Ssp, "pull", broken_pull)
    found_out("no forgotten waiter", policies=SSP, seeds=2000)


def test_beginning_before_all_have_joined(monkeypatch):
    enter = Group.enter

    def broken(self, member):
        enter(self, member)
        self.assembled = True

    monkeypatch.setattr(Group, "enter", broken)
    found_out("nobody begins before all have joined", policies=EAGER)


def test_waiting_again_for_those_who_have_joined_before_a_restart(monkeypatch):
    restore = saved.restore

    def broken(*args):
        machine = restore(*args)
        for group in machine.groups.values():
            group.assembled, group.arrived = False, set()
        return machine

    monkeypatch.setattr("tests.simulation.simulation.restore", broken)
    found_out("no forgotten waiter", policies=EAGER)


def test_no_deduplication(monkeypatch):
    def broken(member, push):
        verdict = judge(member, push)
        if isinstance(verdict, Repeat) and not member.ended:
            return Fresh(member, member.groups[push.group])
        return verdict

    monkeypatch.setattr(machine, "judge", broken)
    found_out("an update is applied once", policies=EAGER)


def test_applying_twice(monkeypatch):
    step = Machine.step

    def broken(self, event, now):
        effects = step(self, event, now)
        for effect in effects:
            if isinstance(effect, Apply):
                object.__setattr__(effect, "contributions", effect.contributions * 2)
        return effects

    monkeypatch.setattr(Machine, "step", broken)
    found_out("what is applied was pushed, and once")


def test_a_bound_that_is_one_too_many(monkeypatch):
    pull = Ssp.pull
    monkeypatch.setattr(Ssp, "pull", lambda self, view, rank: pull(Ssp(self.staleness + 1), view, rank))
    found_out("no pull is answered beyond the bound", policies=SSP)


def test_a_contribution_that_goes_with_its_worker(monkeypatch):
    remove = Rounds.remove

    def broken(self, rank):
        remove(self, rank)
        self.held.pop(rank, None)

    monkeypatch.setattr(Rounds, "remove", broken)
    found_out("no body is forgotten, none is lost", policies=[("sync",)], seeds=600)


def test_nobody_is_evicted(monkeypatch):
    monkeypatch.setattr(Membership, "expired", lambda self, now: [])
    found_out("the dead are evicted")


def test_a_pause_counts_against_the_living(monkeypatch):
    monkeypatch.setattr(Membership, "paused", lambda self, seconds, now: None)
    found_out("only the silent are evicted")


def test_a_pause_is_given_back_twice(monkeypatch):
    """To whoever was heard of between the end of the pause and its being noticed."""

    def broken(self, seconds, now):
        for one in self.live():
            for seat in one.seats:
                seat.lease_until += seconds

    monkeypatch.setattr(Membership, "paused", broken)
    found_out("the dead are evicted")


def test_a_pause_counts_as_waiting(monkeypatch):
    monkeypatch.setattr(WaitingRoom, "paused", lambda self, seconds, now: None)
    found_out("a wait lasts as long as was asked for", seeds=600)


def test_evicting_who_is_parked(monkeypatch):
    def broken(self, request, incarnation, now):
        self.renew(incarnation, now)

    monkeypatch.setattr(Membership, "asks", broken)
    found_out("only the silent are evicted", seeds=600)


def test_the_dead_hold_the_minimum(monkeypatch):
    leave = Roster.exit

    def broken(self, member):
        clocks, self.clocks = self.clocks, Mock()
        leave(self, member)
        self.clocks = clocks

    monkeypatch.setattr(Roster, "exit", broken)
    found_out("the lag is clock minus min clock")


def test_acknowledging_before_publishing(monkeypatch):
    step = Machine.step

    def broken(self, event, now):
        effects = step(self, event, now)
        early = [
            Answered(
                effect.contributions[0].bodies[-1],
                Pushed(event.message.clock, Disposition.APPLIED, Reason.ON_ARRIVAL, effect.number, effect.staleness),
            )
            for effect in effects
            if isinstance(effect, Apply) and not effect.aggregated
        ]
        return effects + early

    monkeypatch.setattr(Machine, "step", broken)
    found_out("what is told is what was done", policies=EAGER)


def test_another_disposition_for_the_repeated_push(monkeypatch):
    to_reply = Record.to_reply

    def broken(self, reason=None):
        reply = to_reply(self, reason)
        return Pushed(reply.clock, Disposition.LATE, reply.reason) if reason is Reason.REPEATED else reply

    monkeypatch.setattr(Record, "to_reply", broken)
    found_out("what is told is what was done")


def test_forgetting_own_writes(monkeypatch):
    """Shows only where a step is still being made when the policy is switched away from sync."""
    step = Machine.step

    def broken(self, event, now):
        for group in self.groups.values():
            for member in group.roster:
                member.groups[group.name].owed = 0
        return step(self, event, now)

    monkeypatch.setattr(Machine, "step", broken)
    found_out("reads its own writes", policies=[("sync",), ("async",)], apply_seconds=2.0, seeds=2000)


def test_forgetting_pushes_over_a_restart(monkeypatch):
    save_life = saved._save_life

    def broken(of, life):
        state = save_life(of, life)
        for group in state["groups"].values():
            group["record"] = None
        return state

    monkeypatch.setattr(saved, "_save_life", broken)
    found_out("what is held is the last push of a life|a dropped update is not there", seeds=2000)


def test_parking_after_the_stop(monkeypatch):
    """A push that is still being applied then may bring a pull along."""

    def broken(self, told):
        for waiting in self:
            self.answer(waiting, told)

    monkeypatch.setattr(WaitingRoom, "stop", broken)
    found_out("nobody waits for a server that stops", seeds=2000)


def test_a_worker_that_takes_no_answer_for_success(monkeypatch):
    lost = Conversation.lost

    def broken(self, request=None):
        ask = self.ask()
        if isinstance(ask, Push):
            self.answered(ask, Pushed(ask.clock, Disposition.APPLIED, Reason.ON_ARRIVAL))
        else:
            lost(self)

    monkeypatch.setattr(Conversation, "lost", broken)
    found_out("an accepted update is there")


def test_acknowledging_what_a_failed_step_should_have_applied(monkeypatch):
    settle = Record.settle
    monkeypatch.setattr(Record, "settle", lambda self, failed: settle(self, failed=False))
    found_out("what is told is what was done", policies=EAGER, failing=0.3)


def test_not_telling_contributors_that_their_step_has_failed(monkeypatch):
    def broken(self, number, now, *, failed=False):
        published_is(self, number, now, failed=failed and not isinstance(self.in_flight[number], RoundStep))

    published_is = Group.published_is
    monkeypatch.setattr(Group, "published_is", broken)
    found_out("a contributor is told of its step_failed", policies=[("sync",)], failing=0.3)


def test_knowing_keys_that_were_not_stored(monkeypatch):
    def broken(self, adding, *, failed):
        specs = dict(self._group.specs)
        added(self, adding, failed=failed)
        self._group.specs = specs

    added = Offerings.added
    monkeypatch.setattr(Offerings, "added", broken)
    found_out("not at the end", failing=0.9)


def test_a_failed_step_that_leaves_its_round_open(monkeypatch):
    def broken(self, number, now, *, failed=False):
        state = self.rounds.state
        published_is(self, number, now, failed=failed)
        if failed:
            self.rounds.state = state

    published_is = Group.published_is
    monkeypatch.setattr(Group, "published_is", broken)
    found_out("a round opens when all are there", policies=[("sync",)], failing=0.3)


def test_a_step_of_too_few_updates(monkeypatch):
    def broken(self, late=()):
        self._group.least_updates, least = 1, self._group.least_updates
        close(self, late)
        self._group.least_updates = least

    close = RoundKeeper.close
    monkeypatch.setattr(RoundKeeper, "close", broken)
    found_out("too few make no step", policies=[("sync",)], least=2)


def test_not_telling_contributors_that_there_were_too_few(monkeypatch):
    grant = Pulls._grant

    def broken(*args):
        return dataclasses.replace(grant(*args), too_few=False)

    monkeypatch.setattr(Pulls, "_grant", broken)
    found_out("told of its too_few", policies=[("sync",)], least=2)


def test_a_quorum_of_one_too_few(monkeypatch):
    def broken(self, view, now):
        deadline = Quorum(max(1, self.quorum - 1), self.grace_seconds).deadline(view)
        return view.rounds.complete or (deadline is not None and deadline <= now)

    monkeypatch.setattr(Quorum, "may_close", broken)
    found_out("with its quorum after its grace", policies=QUORUMS)


def test_a_first_round_of_a_quorum_that_opens_with_too_few(monkeypatch):
    def broken(self, view):
        return () if self.to.terms.quorum else awaited(self, view)

    awaited = Switching.awaited
    monkeypatch.setattr(Switching, "awaited", broken)
    found_out("the first round of a quorum has as many as it asks for", policies=[*EAGER, *QUORUMS])


def test_a_first_round_of_a_quorum_that_waits_for_all(monkeypatch):
    monkeypatch.setattr(Switching, "awaited", lambda self, view: view.behind(self.at))
    found_out("a round opens when all are there", policies=[*EAGER, *QUORUMS])


def test_no_grace(monkeypatch):
    deadline = Quorum.deadline
    monkeypatch.setattr(Quorum, "may_close", lambda self, view, now: deadline(self, view) is not None)
    found_out("with its quorum after its grace", policies=QUORUMS)


def test_a_pause_that_is_part_of_a_grace(monkeypatch):
    monkeypatch.setattr(Rounds, "paused", lambda self, seconds, now: None)
    found_out("with its quorum after its grace|called when a grace is over", policies=QUORUMS)


def test_nobody_calls_when_a_grace_is_over(monkeypatch):
    monkeypatch.setattr(Machine, "next_deadline", None)
    found_out("called when a grace is over", policies=QUORUMS)


TIMED = {"until": 1000, "until_seconds": 6.0}


def test_a_time_that_is_over_and_nothing_happens(monkeypatch):
    monkeypatch.setattr(Endings, "by_time", lambda self, now: None)
    found_out("the run is over in time", **TIMED)


def test_a_pause_that_is_part_of_the_time(monkeypatch):
    monkeypatch.setattr(Endings, "paused", lambda self, seconds, now: None)
    found_out("called when a grace is over, or the run", **TIMED)


def test_a_run_that_is_over_and_grants_go_on(monkeypatch):
    monkeypatch.setattr(Group, "end", lambda self, why: None)
    found_out("the run is over when every group is", **TIMED)


def test_applying_what_is_late(monkeypatch):
    push = Gathering.push

    def broken(self, view, rank):
        reception = push(self, view, rank)
        return Reception.ON_ARRIVAL if reception is Reception.LATE else reception

    monkeypatch.setattr(Gathering, "push", broken)
    found_out("a late update is dropped", policies=QUORUMS)


def test_a_late_worker_that_goes_on_by_one(monkeypatch):
    advance = Pushes._advance
    monkeypatch.setattr(Pushes, "_advance", lambda self, member, to=None: advance(self, member))
    found_out("a clock goes on by an own push, or when its round has closed", policies=QUORUMS)


def test_a_late_worker_that_is_told_another_clock_when_it_asks_again(monkeypatch):
    to_reply = Record.to_reply

    def broken(self, reason=None):
        reply = to_reply(self, reason)
        newer = reason is Reason.REPEATED and reply.next_clock is not None
        return dataclasses.replace(reply, next_clock=reply.next_clock + 1) if newer else reply

    monkeypatch.setattr(Record, "to_reply", broken)
    found_out("what is told is what was done", policies=QUORUMS, seeds=600)


def test_waiting_for_who_still_computes_for_an_earlier_round(monkeypatch):
    members = Quorum.members
    monkeypatch.setattr(
        Quorum, "members", lambda self, view: members(self, view) if view.min_clock == view.max_clock else ()
    )
    found_out("a round opens when all are there", policies=QUORUMS)
