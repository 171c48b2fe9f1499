"""Who waits for whom and how long: small stories, and generated schedules against what is dumb enough to be right."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leeway.protocol.barriers import Barrier
from leeway.protocol.lives import Life as Named
from leeway.protocol.membership import Join, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.tuning import SetPolicy
from leeway.ps.core.effects import Adopt, Answered, Apply, Ended, Initialize
from leeway.ps.core.events import Asked, Gone, Paused, Published, Tick
from leeway.ps.core.machine import Machine
from leeway.ps.core.settings import GroupSettings, Settings
from leeway.ps.watching.waits import Waits
from tests.properties.schedule import SPECS, Both, Move
from tests.properties.test_policies import ALL, RANKS, runs, schedules, some

GROUP = "default"


class Run:
    """A machine whose versions come out at once, with the waits beside it."""

    def __init__(self, mode, staleness=None, workers=("w0", "w1", "w2")):
        self.machine = Machine(Settings((GroupSettings(PolicyTerms(mode, staleness)),), workers=len(workers)), epoch=1)
        self.waits = Waits(self.machine.groups)
        self.now = 0.0
        self.requests = 0
        self.holding = False
        self.making = []
        self.ask(Offer(SPECS))
        self.lives = {}
        for rank in workers:
            self.join(rank)

    def happen(self, event):
        effects = self.machine.step(event, self.now)
        self.waits.see(event, effects, self.now)
        self.making += [one.number for one in effects if isinstance(one, (Adopt, Apply, Initialize))]
        if not self.holding:
            self.publish()
        return effects

    def publish(self):
        while self.making:
            self.happen(Published(GROUP, self.making.pop(0)))

    def ask(self, message):
        self.requests += 1
        return self.happen(Asked(self.requests, message))

    def join(self, rank, session=""):
        effects = self.ask(Join(rank, session or rank))
        joined = [one.reply for one in effects if isinstance(one, Answered)][-1]
        self.lives[rank] = Named(rank, 1, joined.incarnation)

    def pull(self, rank):
        clock = self.machine.groups[GROUP].clock_of(rank)
        self.ask(Pull(life=self.lives[rank], clock=clock, wait_seconds=100))
        return self.requests

    def push(self, rank, *, pull=True, kind=UpdateKind.GRADIENT):
        progress = self.machine.groups[GROUP].roster.progress(rank)
        version, number = progress.grants[-1]
        samples = 0 if kind is UpdateKind.SKIP else 1
        self.ask(
            Push(self.lives[rank], progress.clock, version, kind, samples, round=number, pull=pull, wait_seconds=100)
        )
        return self.requests

    def waited(self):
        return {rank: self.waits.waiting_seconds(GROUP, rank, self.now) for rank in self.lives}

    def held(self):
        return {rank: self.waits.held_seconds(GROUP, rank, self.now) for rank in self.lives}


class TestSync:
    @pytest.fixture
    def run(self):
        run = Run("sync")
        for rank in run.lives:
            run.pull(rank)
        assert run.waited() == {"w0": 0, "w1": 0, "w2": 0}
        return run

    def test_who_has_pushed_waits_for_those_who_have_not(self, run):
        run.push("w0")
        run.now = 2.0
        assert run.waited() == {"w0": 2, "w1": 0, "w2": 0}
        assert run.held() == {"w0": 0, "w1": 2, "w2": 2}

    def test_a_push_ends_it_at_once(self, run):
        run.push("w0")
        run.now = 2.0
        run.push("w1")
        run.now = 5.0
        run.push("w2")
        run.now = 9.0
        assert run.waited() == {"w0": 5, "w1": 3, "w2": 0}
        assert run.held() == {"w0": 0, "w1": 2, "w2": 5}

    def test_the_arithmetic_is_waited_for_by_all_and_held_up_by_nobody(self, run):
        run.holding = True
        for rank in run.lives:
            run.push(rank)
        run.now = 3.0
        run.publish()
        run.now = 4.0
        assert run.waited() == {"w0": 3, "w1": 3, "w2": 3}
        assert run.held() == {"w0": 0, "w1": 0, "w2": 0}

    def test_a_push_without_a_pull_waits_for_nothing(self, run):
        run.push("w0", pull=False)
        run.now = 2.0
        assert set(run.waited().values()) == set(run.held().values()) == {0}
        run.pull("w0")
        run.now = 3.0
        assert (run.waited()["w0"], run.held()["w1"]) == (1, 1)

    def test_who_is_gone_waits_no_more(self, run):
        request = run.push("w0")
        run.now = 2.0
        run.happen(Gone(request))
        run.now = 5.0
        assert (run.waited()["w0"], run.held()["w1"]) == (2, 2)

    def test_a_life_that_has_ended_is_forgotten(self, run):
        run.push("w0")
        run.now = 2.0
        run.ask(Leave(run.lives["w2"]))
        assert run.held() == {"w0": 0, "w1": 2, "w2": 0}
        run.now = 3.0
        run.join("w2", "its second life")
        run.join("w0", "its second life")
        run.now = 4.0
        assert run.waited() == {"w0": 0, "w1": 0, "w2": 0}
        assert run.held() == {"w0": 0, "w1": 2 + 1, "w2": 0}, "w0 waited until its first life ended"

    def test_a_switch_ends_all_waits(self, run):
        run.push("w0")
        run.now = 2.0
        run.ask(SetPolicy(PolicyTerms("async")))
        run.now = 5.0
        assert (run.waited()["w0"], run.held()["w1"]) == (2, 2)

    def test_a_skip_is_a_push(self, run):
        run.push("w0", kind=UpdateKind.SKIP)
        run.push("w1", kind=UpdateKind.SKIP)
        run.now = 1.0
        assert run.held() == {"w0": 0, "w1": 0, "w2": 1}


class TestSsp:
    def test_the_slowest_are_waited_for(self):
        run = Run("ssp", 0)
        for rank in run.lives:
            run.pull(rank)
        run.push("w0")
        run.now = 1.0
        run.push("w1")
        run.now = 4.0
        assert run.waited() == {"w0": 4, "w1": 3, "w2": 0}
        assert run.held() == {"w0": 0, "w1": 1, "w2": 4}
        run.push("w2")
        run.now = 9.0
        assert run.held() == {"w0": 0, "w1": 1, "w2": 4}

    def test_a_push_counts_when_it_is_published(self):
        run = Run("ssp", 0, workers=("w0", "w1"))
        run.pull("w0")
        run.pull("w1")
        run.push("w0")
        run.holding = True
        run.now = 1.0
        run.push("w1")
        run.now = 3.0
        assert run.held() == {"w0": 0, "w1": 3}
        run.publish()
        run.now = 5.0
        assert (run.waited(), run.held()) == ({"w0": 3, "w1": 0}, {"w0": 0, "w1": 3})

    def test_on_the_way_to_sync_one_is_waited_for_until_it_is_there(self):
        run = Run("ssp", 2, workers=("w0", "w1"))
        run.pull("w0")
        run.push("w0")
        run.push("w0")
        run.ask(SetPolicy(PolicyTerms("sync")))
        run.push("w0")  # its clock is 3 now, where the first round is to be
        run.pull("w1")
        for _ in range(3):
            run.now += 1.0
            assert run.held() == {"w0": 0, "w1": run.now}
            run.push("w1")
        run.now += 5.0
        assert run.held() == {"w0": 0, "w1": 3}


def test_readers_and_barriers_are_no_waits():
    run = Run("async", workers=("w0", "w1"))
    run.ask(Pull(min_version=99, wait_seconds=100))
    run.ask(Barrier(run.lives["w0"], "start", 0, parties=2, wait_seconds=100))
    run.now = 5.0
    run.happen(Tick())
    assert set(run.waited().values()) == set(run.held().values()) == {0}


def test_time_in_which_the_server_did_not_run_is_charged_to_nobody():
    run = Run("ssp", 0, workers=("w0", "w1"))
    run.pull("w0")
    run.push("w0")
    run.now += 2.0
    run.now += 60.0
    run.happen(Paused(60.0))
    assert run.waited()["w0"] == run.held()["w1"] == 2
    run.now += 1.0
    run.pull("w1")
    run.push("w1")
    assert run.waited()["w0"] == run.held()["w1"] == 3
    assert run.waited()["w1"] == run.held()["w0"] == 0


class Dumb(Both):
    """Adds up the time between any two events for everybody who waits in it, or is waited for."""

    def __init__(self, mode, bound=None, **run):
        super().__init__((mode, bound, None, None), **run)
        self.begin()

    def begin(self):
        self.watched, self.waits = self.machine, Waits(self.machine.groups)
        self.waited, self.held = {}, {}
        self.waiting, self.waited_for = set(), set()
        self.before = self.now

    def pause(self, rank, n):
        """Nothing is taken in the middle of it: what has ended by then has been counted."""
        super().pause(rank, n - n % 2)

    def _event(self, event, tell_oracle):
        if self.watched is not self.machine:  # restarted: what is counted begins anew
            self.begin()
        step = self.machine.step
        for sums, ranks in ((self.waited, self.waiting), (self.held, self.waited_for)):
            for rank in ranks:
                if not isinstance(event, Paused):
                    sums[rank] = sums.get(rank, 0.0) + self.now - self.before
        self.before = self.now

        def seen(event, now):
            effects = step(event, now)
            self.waits.see(event, effects, now)
            for effect in effects:
                if isinstance(effect, Ended):
                    self.waited.pop(effect.rank, None)
                    self.held.pop(effect.rank, None)
            group = self.machine.groups[GROUP]
            parked = [(one, group.waiting.of(one)) for one in group.roster if group.waiting.of(one)]
            self.waiting = {member.rank for member, _ in parked}
            self.waited_for = {rank for _, waiting in parked for rank in group.pulls.why(waiting).waiting_for}
            return effects

        self.machine.step = seen
        try:
            super()._event(event, tell_oracle)
        finally:
            self.machine.__dict__.pop("step", None)

    def _compare_states(self):
        super()._compare_states()
        for later in (0.0, 2.5):
            now = self.now + later
            for rank in [f"w{index}" for index in range(RANKS)]:
                waited = self.waited.get(rank, 0.0) + (later if rank in self.waiting else 0.0)
                held = self.held.get(rank, 0.0) + (later if rank in self.waited_for else 0.0)
                self._same(f"wait of {rank}", self.waits.waiting_seconds(GROUP, rank, now), waited)
                self._same(f"held by {rank}", self.waits.held_seconds(GROUP, rank, now), held)


def check_nobody_waits(waits):
    """Nothing runs, and nothing is remembered of requests that are done."""
    for watches in (*waits._waiting.values(), *waits._held.values()):
        assert not watches._since
    assert not waits._parked


@some(300)
# The pull behind a push that is still being applied at the stop waits for nobody.
@example(
    policy=("sync", None),
    run={"workers": 1, "until": None, "longest": None, "delayed": True},
    moves=[Move("step", 0, 0), Move("policy", 0, 2), Move("step", 1, 0)],
)
@given(
    policy=st.sampled_from([("sync", None), ("async", None), ("ssp", 0), ("ssp", 2)]),
    run=runs,
    moves=schedules(ALL | {"policy": 4, "wait": 9, "barrier": 2}, longest=80),
)
def test_times_are_those_of_a_dumb_sum(policy, run, moves):
    both = Dumb(*policy, **run)
    both.play([Move("join", who) for who in range(RANKS)])
    both.play([Move("offer"), Move("publish")])
    both.play(moves)
    both.stop()
    check_nobody_waits(both.waits)
