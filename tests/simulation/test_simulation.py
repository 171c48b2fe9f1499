"""Thousands of schedules of the server's and the workers' state machines, every guarantee checked after every event.

A failure prints the whole schedule and how to play that seed again.
"""

from collections import Counter
from random import Random

import pytest

from leeway.protocol.pulls import NotYet
from leeway.protocol.pushes import Pushed, PushPulled
from leeway.ps.core.effects import Answered, Ended, Parked, RoundClosed, RoundOpened, Switched
from leeway.worker.session.states import Ending
from tests.simulation.simulation import QUORUMS, Simulation, Trouble

BLOCK = 500


def play(simulation: Simulation) -> Simulation:
    """Run it; what goes wrong is told with its schedule."""
    try:
        simulation.run()
    except Exception as error:
        raise AssertionError(f"{error}\n{simulation}") from error
    return simulation


@pytest.mark.parametrize("block", range(8))
def test_every_schedule_keeps_the_guarantees_and_reaches_the_end(block):
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        play(Simulation(seed))


def test_the_same_seed_is_the_same_run():
    assert str(play(Simulation(7))) == str(play(Simulation(7)))


def test_the_schedules_are_eventful():
    """The guarantees are worth nothing where nothing happens: each kind of event comes up many times."""
    seen: Counter[str] = Counter()

    class Watched(Simulation):
        def perform(self, effect):
            seen.update(kinds(effect))
            super().perform(effect)

    for seed in range(300):
        simulation = Watched(seed)
        simulation.run()
        seen.update(trouble.verb for trouble in simulation.troubles)
        seen.update(str(process.conversation.ending) for process in simulation.processes)
    wanted = (
        *("crash", "hang", "replace", "cut off", "die", "leave", "stop", "kill", "save", "pause", "switch"),
        *("applied", "held", "skipped", "step-failed", "too-few", "repeated", "not-yet", "evicted", "superseded"),
        *("old-epoch", "stopping"),
        *("lease-expired", "new-session", "left", "lag", "next-round", "waiting-for-round", "waiting-for-step"),
        *("late", "round-closed", "closed-without"),
        *("round-opened", "switched", Ending.FENCED, Ending.FINISHED),
    )
    rare = {name: seen[name] for name in wanted if seen[name] < 5}
    assert not rare


def kinds(effect):
    """Names for what is worth counting."""
    match effect:
        case Answered(_, reply):
            if isinstance(reply, PushPulled):
                yield from kinds(Answered(0, reply.pushed))
                yield from kinds(Answered(0, reply.pulled))
            elif isinstance(reply, Pushed):
                yield from (str(reply.disposition), str(reply.reason))
            elif isinstance(reply, NotYet):
                yield "not-yet"
            elif hasattr(reply, "error"):
                yield str(reply.error.code)
        case Ended() | Parked():
            yield str(effect.reason)
        case RoundOpened():
            yield "round-opened"
        case RoundClosed():
            if effect.needed is not None:
                yield "too-few"
            if effect.late:
                yield "closed-without"
        case Switched():
            yield "switched"


@pytest.mark.parametrize("policy", [("sync",), ("async",), ("ssp", 0), ("ssp", 3), *QUORUMS])
def test_a_dead_worker_holds_the_others_up_no_longer_than_its_lease(policy):
    """One of the workers dies early and for good; the others are through as soon as its lease is over."""
    for seed in range(40):
        troubles = [Trouble(2.0, "die", "w0")]
        simulation = Simulation(seed, policies=[policy], troubles=troubles, until=4)
        if len(simulation.ranks) > 1:
            play(simulation)


def test_clean_restarts_lose_nothing():
    """A server that is stopped and started over and over: every acknowledged update is in the end applied."""
    for seed in range(60):
        troubles = [Trouble(at, "stop", "w0", 0.5) for at in (1.5, 3.0, 4.5, 6.0, 7.5)]
        simulation = play(Simulation(seed, troubles=troubles))
        assert not simulation.lost_updates
        assert simulation.invariants.epoch == 1


def test_a_run_that_is_over_by_time_is_told_to_all_and_loses_nothing():
    over = 0
    for seed in range(300):
        simulation = play(Simulation(seed, until=1000, until_seconds=Random(seed).uniform(0.1, 9.0)))
        endings = {process.conversation.ending for process in simulation.processes if process.alive}
        over += endings == {Ending.FINISHED}
    assert over > 200


@pytest.mark.parametrize("seed", range(6))
def test_a_stranger_with_another_model_changes_nothing(seed):
    troubles = [Trouble(at, verb) for at in (1.5, 3.0, 6.0) for verb in ("stranger", "stop", "stranger")]
    Simulation(seed, troubles=troubles).run()
