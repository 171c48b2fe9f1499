"""The invariants of several groups can fail: each of these servers is broken in one way, and is found out."""

from dataclasses import replace

from leeway.ps.core import circles, machine
from leeway.ps.core.deduplication import Repeat, judge
from leeway.ps.core.effects import WaitingFor
from leeway.ps.core.machine import Machine
from leeway.ps.core.membership import Membership
from leeway.ps.core.policies import Quorum
from leeway.ps.core.settings import GroupSettings
from leeway.ps.core.situation import Situation
from tests.simulation.parts import SeveralParts
from tests.simulation.process import Process
from tests.simulation.simulation import QUORUMS, Trouble
from tests.simulation.test_mutations import found_out


class OneIsSlow(SeveralParts):
    """The others wait long for it, and while they do some of them hang: in which part they are missed, nobody tells."""

    def __init__(self, seed, **chosen):
        super().__init__(seed, troubles=[Trouble(at, "hang", "w0", 15.0) for at in (4.0, 10.0)], **chosen)

    def _process(self, rank, name):
        loop = self.loops[rank](6.0 if rank == self.ranks[-1] else 0.1)
        return Process(self, rank, name, replace(loop, waits_seconds=(30.0,)), self.specs)


def of_parts(guarantee, **chosen):
    found_out(guarantee, of=SeveralParts, **chosen)


def test_circles_that_nobody_looks_for(monkeypatch):
    monkeypatch.setattr(circles, "find", lambda groups: [])
    of_parts("no circle of waiters is left")


def test_circles_that_are_looked_for_when_a_pull_parks_alone(monkeypatch):
    emit = Machine.emit

    def broken(self, effect):
        may_circle = self._may_circle
        emit(self, effect)
        if isinstance(effect, WaitingFor):
            self._may_circle = may_circle

    monkeypatch.setattr(Machine, "emit", broken)
    switches = [Trouble(at, "switch", "w0", policy=("ssp", 0)) for at in (2.0, 4.0, 6.0)]
    of_parts("no circle of waiters is left", policies=[("async",), ("sync",)], troubles=switches, seeds=2000)


def test_a_circle_in_which_a_quorum_waits_for_all(monkeypatch):
    monkeypatch.setattr(Quorum, "needed", lambda self, view, awaited: awaited)
    of_parts("who (gives way|is passed over) was in a circle", policies=QUORUMS)


def test_an_end_that_does_not_wait_for_who_computes(monkeypatch):
    done = Situation.done.fget

    def broken(self):
        return not (self.in_flight or self.rounds.held) if self.over is not None else done(self)

    monkeypatch.setattr(Situation, "done", property(broken))
    of_parts("the end waits for who computes where there is none", ends=(0, 2, 4))


def test_an_end_that_does_not_wait_for_what_is_applied_where_nobody_is(monkeypatch):
    monkeypatch.setattr(Situation, "deserted", property(lambda self: not self.live_workers))
    of_parts("the end comes when all is applied", apply_seconds=2.0)


def test_an_end_of_a_part_that_is_lost(monkeypatch):
    group = Machine._group

    def broken(self, settings):
        made = group(self, settings)
        if isinstance(settings, GroupSettings) and settings not in self.settings.groups:
            made.until = None
        return made

    monkeypatch.setattr(Machine, "_group", broken)
    of_parts("the run is over when every group is|nobody is told of an end|not at the end")


def test_an_end_of_its_own_that_is_passed_over(monkeypatch):
    init = Situation.__init__

    def broken(self, settings, *, until, **more):
        init(self, settings, until=until, **more)
        self.until = until

    monkeypatch.setattr(Situation, "__init__", broken)
    of_parts("the run is over when every group is|nobody is told of an end|not at the end")


def test_a_life_that_its_parked_pulls_keep_though_it_is_missed(monkeypatch):
    monkeypatch.setattr(Membership, "is_missed", lambda self, incarnation, now, missed: None)
    found_out("the dead are evicted", of=OneIsSlow, policies=[("sync",)], seeds=150)


def test_keys_of_a_part_that_go_to_the_group_whose_pattern_they_match(monkeypatch):
    def broken(self, key):
        parts, self.parts = self.parts, []
        try:
            return group_of(self, key)
        finally:
            self.parts = parts

    group_of = Machine.group_of
    monkeypatch.setattr(Machine, "group_of", broken)
    of_parts("no worker is told of a mistake")


def test_a_push_to_one_group_that_is_taken_for_the_last_one_to_another(monkeypatch):
    def broken(member, push):
        for name, progress in member.groups.items():
            if name != push.group and progress.record and progress.record.clock == push.clock:
                return Repeat(member, progress.record)
        return judge(member, push)

    monkeypatch.setattr(machine, "judge", broken)
    of_parts("a clock goes on as the history says|what is told is what was done")
