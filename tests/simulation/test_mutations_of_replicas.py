"""What is checked of replicas can fail: each of these servers is broken in one way, and is found out."""

from collections import deque

from leeway.protocol.reasons import Reason
from leeway.ps.core import saved
from leeway.ps.core.effects import Apply, Pin
from leeway.ps.core.groups import Group
from leeway.ps.core.joins import Joins
from leeway.ps.core.lives import Incarnation
from leeway.ps.core.machine import Machine
from leeway.ps.core.membership import Membership
from leeway.ps.core.offerings import Offerings
from leeway.ps.core.pulls import Pulls
from leeway.ps.core.pushes import Pushes
from tests.simulation.replicas import Replicas
from tests.simulation.stage import Stage
from tests.simulation.test_mutations import EAGER, found_out


def replicas_found_out(guarantee, **chosen):
    found_out(guarantee, of=Replicas, **chosen)


def of_each_step(monkeypatch, change):
    """Every `Apply` of several bodies is changed."""
    step = Machine.step

    def broken(self, event, now):
        effects = step(self, event, now)
        for effect in effects:
            if isinstance(effect, Apply):
                for contribution in effect.contributions:
                    if len(contribution.bodies) > 1:
                        object.__setattr__(contribution, "bodies", change(contribution.bodies))
        return effects

    monkeypatch.setattr(Machine, "step", broken)


def test_each_stage_is_granted_the_newest_version(monkeypatch):
    take = Pulls.take

    def broken(self, request, pull, member, now, pushed=None):
        if member:
            member.groups[self._group.name].grants.clear()
        take(self, request, pull, member, now, pushed)

    monkeypatch.setattr(Pulls, "take", broken)
    replicas_found_out("all stages of a replica get one version", policies=EAGER)


def test_a_commit_without_one_of_the_parts(monkeypatch):
    of_each_step(monkeypatch, lambda bodies: bodies[:-1])
    replicas_found_out("an update is applied whole")


def test_a_part_that_is_applied_twice(monkeypatch):
    of_each_step(monkeypatch, lambda bodies: bodies[:1] * len(bodies))
    replicas_found_out("what is applied was pushed, and once")


def test_parts_in_another_order_than_the_stages(monkeypatch):
    of_each_step(monkeypatch, lambda bodies: bodies[::-1])
    replicas_found_out("an update is applied whole")


def test_a_dropped_iteration_that_counts(monkeypatch):
    end = Machine.end

    def broken(self, member, *why):
        for name, progress in member.groups.items():
            if progress.staged:
                self.membership.accepted(member.rank, name)
        end(self, member, *why)

    monkeypatch.setattr(Machine, "end", broken)
    replicas_found_out("a rank goes on behind what was accepted of it")


def test_an_accepted_iteration_that_does_not_count(monkeypatch):
    accepted = Membership.accepted

    def broken(self, rank, group):
        if self.of_rank(rank).number == 1:
            accepted(self, rank, group)

    monkeypatch.setattr(Membership, "accepted", broken)
    replicas_found_out("a rank goes on behind what was accepted of it|goes on from the state of the stop")


def test_a_count_that_goes_with_a_restart(monkeypatch):
    save = saved.save

    def broken(machine):
        state, bodies = save(machine)
        for rank in state["ranks"].values():
            rank["committed"] = {}
        return state, bodies

    monkeypatch.setattr("tests.simulation.simulation.save", broken)
    replicas_found_out("a clean start goes on from the state of the stop|no batch is lost")


def test_a_stage_that_goes_on_with_another_batch(monkeypatch):
    drop = Stage._drop

    def broken(self):
        self.batch += self.push is not None
        drop(self)

    joined = Stage._joined

    def keeping(self, reply):
        batch = self.batch
        joined(self, reply)
        self.batch = max(batch, self.batch)

    monkeypatch.setattr(Stage, "_drop", broken)
    monkeypatch.setattr(Stage, "_joined", keeping)
    replicas_found_out("all stages compute one batch|no batch is lost or counted twice")


def test_letting_in_whose_place_was_taken(monkeypatch):
    judge = Joins._judge_place

    def broken(self, join, place):
        known, self.processes = self.processes, {}
        try:
            return judge(self, join, place)
        finally:
            self.processes = known

    monkeypatch.setattr(Joins, "_judge_place", broken)
    replicas_found_out("whose place was taken does not come back", seeds=600)


def test_letting_them_in_behind_a_restart(monkeypatch):
    restore = saved.restore

    def broken(*args):
        machine = restore(*args)
        for stages in machine.joins.processes.values():
            stages.update({stage: deque() for stage in stages})
        return machine

    monkeypatch.setattr("tests.simulation.simulation.restore", broken)
    replicas_found_out("whose place was taken does not come back", seeds=2000)


def test_a_life_that_begins_though_a_stage_has_not_asked_for_it(monkeypatch):
    ended = Joins.ended

    def broken(self, member):
        ended(self, member)
        forming = self.forming.get(member.rank)
        if forming and member.ended is Reason.NEW_SESSION:
            forming.seats.update(forming.expected)

    monkeypatch.setattr(Joins, "ended", broken)
    replicas_found_out("a replica begins when all its stages are there")


def test_a_stage_that_is_forgotten_while_it_waits(monkeypatch):
    gone = Joins.gone

    def broken(self, request):
        for forming in self.forming.values():
            if gathered := forming.waiting.get(request):
                forming.seats.pop(gathered.seat.stage, None)
        gone(self, request)

    monkeypatch.setattr(Joins, "gone", broken)
    replicas_found_out("a stage that has come is there", seeds=600)


def test_waiting_for_ever_for_who_came_and_died(monkeypatch):
    monkeypatch.setattr(Membership, "seat_left", lambda self, seat, now, missed=False: 1.0)
    replicas_found_out("the dead are evicted|the dead are not waited for")


def test_pins_that_are_forgotten(monkeypatch):
    monkeypatch.setattr(Group, "settle_pins", lambda self: None)
    replicas_found_out("what replicas were granted is kept, and nothing else")


def test_pins_that_are_never_let_go(monkeypatch):
    settle_pins = Group.settle_pins

    def broken(self):
        before = self.pinned
        settle_pins(self)
        if set(before) - set(self.pinned):
            self.pinned = tuple(sorted({*before, *self.pinned}))
            self.emit(Pin(self.name, self.pinned))

    monkeypatch.setattr(Group, "settle_pins", broken)
    replicas_found_out("what replicas were granted is kept, and nothing else")


def test_parts_of_an_ended_life_that_stay(monkeypatch):
    exited = Pushes.exited

    def broken(self, member, refusal):
        member.groups[self._group.name].staged = {}
        exited(self, member, refusal)

    monkeypatch.setattr(Pushes, "exited", broken)
    replicas_found_out("no body is forgotten, none is lost")


def test_stages_that_are_not_told_that_their_life_has_ended(monkeypatch):
    def broken(self, member, refusal):
        self._group.drop_staged(member.groups[self._group.name])

    monkeypatch.setattr(Pushes, "exited", broken)
    replicas_found_out("the ended do not wait")


def test_all_stages_are_told_what_is_true_of_one(monkeypatch):
    refusal = Incarnation.refusal
    monkeypatch.setattr(Incarnation, "refusal", lambda self, stage=None: refusal(self, self.culprit))
    replicas_found_out("a stage is told how its life has ended")


def test_a_life_that_goes_on_as_long_as_one_of_its_stages_lives(monkeypatch):
    def broken(self, now):
        silent = [life for life in self.live() if all(self.seat_left(seat, now) <= 0 for seat in life.seats)]
        return [(life, life.seats[0]) for life in silent]

    monkeypatch.setattr(Membership, "expired", broken)
    replicas_found_out("the dead are evicted")


def test_a_life_that_goes_on_without_a_stage_that_has_left(monkeypatch):
    monkeypatch.setattr(Machine, "_is_complete", lambda self, member: True)
    replicas_found_out("a life without one of its stages has come to its end")


def test_a_wait_for_parts_that_does_not_end(monkeypatch):
    monkeypatch.setattr(Pushes, "expire", lambda self, now: None)
    replicas_found_out("a wait ends in time")


def test_a_join_that_waits_on(monkeypatch):
    def broken(self, now):
        for rank, forming in self.forming.items():
            late = [request for request, gathered in forming.waiting.items() if gathered.until + 2 <= now]
            self._answer(forming, late, self._not_yet(rank, forming))

    monkeypatch.setattr(Joins, "expire", broken)
    replicas_found_out("a wait ends in time|the dead are not waited for")


def test_a_pause_that_is_part_of_the_waits_of_stages(monkeypatch):
    monkeypatch.setattr(Joins, "paused", lambda self, seconds, now: None)
    monkeypatch.setattr(Pushes, "paused", lambda self, seconds, now: None)
    replicas_found_out("a wait lasts as long as was asked for|a stage that has come is there", seeds=600)


def test_stages_that_wait_when_the_run_is_over(monkeypatch):
    monkeypatch.setattr(Joins, "dismiss", lambda self, refusal: None)
    replicas_found_out("nobody waits for what does not come|nobody waits for a server that stops")


def test_reading_before_all_stages_have_offered(monkeypatch):
    added = Offerings.added

    def broken(self, adding, *, failed):
        self._group.readable = self._group.readable or not failed
        added(self, adding, failed=failed)

    monkeypatch.setattr(Offerings, "added", broken)
    replicas_found_out("there is something to read|no forgotten waiter")


def test_telling_a_waiting_stage_that_its_part_was_taken_before_the_others_are_there(monkeypatch):
    stage = Pushes._stage

    def broken(self, request, push, member, missing, now):
        stage(self, request, push, member, (), now)

    monkeypatch.setattr(Pushes, "_stage", broken)
    replicas_found_out("who waits is told which parts are missing")
