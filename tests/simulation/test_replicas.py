"""Schedules of replicas: stages among workers, every guarantee checked after every event.

A failure prints the whole schedule and how to play that seed again.
"""

import json
from collections import Counter
from random import Random

import pytest

from tests.replay import replay
from tests.simulation.network import Weather
from tests.simulation.replicas import Replicas
from tests.simulation.simulation import QUORUMS, TICK_SECONDS, Trouble
from tests.simulation.test_simulation import kinds, play

BLOCK = 150
POLICIES = [("sync",), ("async",), ("ssp", 0), ("ssp", 3), *QUORUMS]


@pytest.mark.parametrize("block", range(5))
def test_every_schedule_keeps_the_guarantees_and_reaches_the_end(block):
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        play(Replicas(seed))


def test_the_same_seed_is_the_same_run():
    assert str(play(Replicas(7))) == str(play(Replicas(7)))


def test_the_schedules_are_eventful():
    """Each kind of what happens to replicas comes up many times."""
    seen: Counter[str] = Counter()

    class Watched(Replicas):
        def perform(self, effect):
            seen.update([type(effect).__name__, *kinds(effect)])
            super().perform(effect)

    for seed in range(200):
        simulation = play(Watched(seed))
        seen.update(trouble.verb for trouble in simulation.troubles)
        seen["back"] += len(simulation.absences)
    wanted = (
        *("crash", "hang", "replace", "cut off", "die", "leave", "stop", "kill", "save", "pause", "switch"),
        *("stage-lost", "stage-replaced", "evicted", "fenced", "left", "finished", "old-epoch", "stopping"),
        *("waiting-for-stages", "late", "skipped", "repeated", "superseded", "wrong-clock", "step-failed", "too-few"),
        *("lease-expired", "new-session", "no-parameters", "Pin", "back"),
    )
    rare = {name: seen[name] for name in wanted if seen[name] < 5}
    assert not rare


class Calm(Replicas):
    """The network loses nothing and the server stays; `kills`: how many stages die, one after the other."""

    def __init__(self, seed, *, kills=0, every_seconds=3.0, **chosen):
        self.kills, self.every_seconds = kills, every_seconds
        timed = {"until": 10_000, "until_seconds": 2.0 + (kills + 4) * every_seconds, "failing": 0.0}
        super().__init__(seed, **(timed | chosen))

    def _weather(self):
        return Weather(delay_seconds=0.01)

    def _troubles(self):
        luck = Random(self.seed)
        stages = [rank for rank in self.ranks if "/" in rank]
        # Some are replaced at once, others when their lease is over: then the next one dies while that one is away.
        return [
            Trouble(2.0 + place * self.every_seconds, "crash", luck.choice(stages), luck.choice((0.2, 1.0, 5.0)))
            for place in range(self.kills)
        ]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_replica_is_back_within_two_leases_of_the_replacement(policy):
    """Nobody of it has ended: those that are left join its next life by themselves."""
    absences = []
    for seed in range(4):
        simulation = play(Calm(seed, kills=8, policies=[policy], stages=(2, 3), workers=(1,)))
        absences += simulation.absences
    assert len(absences) > 8
    assert max(absences) <= 2 * simulation.settings.lease_seconds


@pytest.mark.parametrize("seed", range(4))
def test_fifty_stages_die_and_every_replica_goes_on(seed):
    simulation = play(Calm(seed, kills=50, stages=(2, 3, 4), workers=(0, 1)))
    lives = {member.rank: member.number for member in simulation.machine.membership.live()}
    assert not lives, "all have said goodbye"
    ended = [rank for _, rank, _, reason in simulation.invariants.checker.facts.ended if reason != "left"]
    batches = simulation.invariants.facts.batches
    assert batches.keys() == simulation.stages.keys()
    assert len(ended) > 25
    assert min(batches.values()) > 5


@pytest.mark.parametrize("policy", POLICIES)
def test_a_stage_that_dies_for_good_holds_nobody_up_longer_than_its_lease(policy):
    ends = []
    for seed in range(15):
        troubles = [Trouble(2.0, "die", "r0/0")]
        simulation = play(Calm(seed, policies=[policy], troubles=troubles, stages=(2, 3), workers=(1, 2)))
        lease, longest = simulation.settings.lease_seconds, 6.0  # which a request of its may be parked
        ended = [(at, rank, reason) for at, rank, _, reason in simulation.invariants.checker.facts.ended]
        ends += [at for at, rank, reason in ended if (rank, reason) == ("r0", "lease-expired")]
        assert "r0" not in simulation.machine.joins.forming
    assert len(ends) > 5
    assert max(ends) <= 2.0 + longest + lease + 2 * TICK_SECONDS


def test_clean_restarts_lose_nothing():
    for seed in range(40):
        troubles = [Trouble(at, "stop", "r0/0", 0.5) for at in (1.5, 3.0, 4.5, 6.0, 7.5)]
        simulation = play(Replicas(seed, troubles=troubles))
        assert not simulation.lost_updates
        assert simulation.invariants.epoch == 1


def test_a_run_that_is_over_by_time_waits_for_the_iteration_of_a_replica():
    for seed in range(100):
        simulation = play(Replicas(seed, until=1000, until_seconds=Random(seed).uniform(0.1, 9.0)))
        assert simulation.invariants.finished


def test_a_machine_that_takes_the_history_once_more_decides_the_same():
    """Though it has no ticks that led to nothing."""
    for seed in range(150):
        simulation = Replicas(seed)
        # A start counts its time anew.
        if not any(trouble.verb in ("stop", "kill") for trouble in simulation.troubles):
            play(simulation)
            replay(json.loads(json.dumps(simulation.invariants.rows)))
