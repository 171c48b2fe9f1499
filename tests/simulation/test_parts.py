"""Runs of several groups that workers step one after another: every guarantee checked after every event, and every run
comes to its end.
"""

import json
from collections import Counter

import pytest

from tests.replay import replay
from tests.simulation.network import Weather
from tests.simulation.parts import SeveralParts
from tests.simulation.simulation import Trouble
from tests.simulation.test_simulation import kinds, play

BLOCK = 50
WITHOUT_QUORUM = [("sync",), ("async",), ("ssp", 0), ("ssp", 2)]


@pytest.mark.parametrize("block", range(4))
def test_every_schedule_keeps_the_guarantees_and_reaches_the_end(block):
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        play(SeveralParts(seed))


def test_the_same_seed_is_the_same_run():
    assert str(play(SeveralParts(7))) == str(play(SeveralParts(7)))


def test_a_machine_that_is_given_the_history_decides_the_same():
    """Ticks that led to nothing are not in it."""
    for seed in range(20):
        replay(json.loads(json.dumps(play(SeveralParts(seed)).invariants.rows)))


def test_the_schedules_are_eventful():
    seen: Counter[str] = Counter()

    class Watched(SeveralParts):
        def perform(self, effect):
            seen.update(kinds(effect))
            seen[type(effect).__name__] += 1
            super().perform(effect)

        def step(self, event):
            super().step(event)
            seen["missed"] += bool(self.invariants.missed)
            seen["over"] += any(known.over for known in self.invariants.known.values())

    for seed in range(60):
        simulation = play(Watched(seed))
        seen.update(trouble.verb for trouble in simulation.troubles)
    wanted = (
        *("crash", "replace", "die", "leave", "stop", "save", "switch"),
        *("applied", "held", "late", "deadlock", "finished", "lease-expired", "old-epoch"),
        *("Create", "missed", "over"),
    )
    rare = {name: seen[name] for name in wanted if seen[name] < 5}
    assert not rare


class InOrder(SeveralParts):
    """All step their parts in the same order, over a network that loses nothing, and pull each when its turn comes."""

    def __init__(self, seed, **chosen):
        super().__init__(seed, in_order=True, troubles=[], policies=WITHOUT_QUORUM, **chosen)

    def _weather(self):
        return Weather()

    def _loops(self, names):
        super()._loops(names)
        for loop in self.loops.values():
            loop.keywords["ahead"] = False


def test_in_the_same_order_nobody_is_in_a_circle():
    for seed in range(40):
        assert not any(process.gave_way for process in play(InOrder(seed)).processes)


def test_clean_restarts_lose_nothing_of_any_part():
    for seed in range(15):
        troubles = [Trouble(at, "stop", "w0", 0.5) for at in (1.5, 3.0, 4.5, 6.0, 7.5)]
        simulation = play(SeveralParts(seed, troubles=troubles))
        assert not simulation.lost_updates
        assert simulation.invariants.epoch == 1


def test_the_dead_of_one_part_hold_up_no_other():
    for seed in range(20):
        simulation = SeveralParts(seed, troubles=[Trouble(2.0, "die", "w1")], until=4)
        if len(simulation.ranks) > 1:
            play(simulation)
