"""Under ssp with bound s and N fixed workers no update is staler than (2s+1)(N-1), and that bound is reached.

The worst that can happen to a worker that reads at clock c: the N-1 others stand at c-s as it reads, and push their
iterations c-s to c+s, 2s+1 each, before it pushes (derived from Ho et al., NeurIPS 2013, section 2).
"""

import pytest

from leeway.protocol.lives import Life
from leeway.protocol.membership import Join
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.core.effects import Answered, Apply, Initialize
from leeway.ps.core.events import Asked, Published
from leeway.ps.core.machine import Machine
from leeway.ps.core.settings import GroupSettings, Settings


class Run:
    def __init__(self, bound, workers):
        self.machine = Machine(Settings((GroupSettings(PolicyTerms("ssp", bound)),), workers=workers), epoch=1)
        self.requests = 0
        self.read = {}
        self.staleness = []
        for place in range(workers):
            self.ask(Join(f"w{place}", f"s{place}"))
        self.ask(Offer((TensorSpec("weight", (2,), "float32", Kind.TRAINABLE),)))

    def ask(self, message):
        self.requests += 1
        effects = self.machine.step(Asked(self.requests, message), 0.0)
        for effect in list(effects):
            if isinstance(effect, (Apply, Initialize)):
                self.staleness.append(getattr(effect, "staleness", 0))
                effects += self.machine.step(Published("default", effect.number), 0.0)
        return next(effect.reply for effect in effects if isinstance(effect, Answered))

    def pull(self, place, clock):
        self.read[place] = self.ask(Pull("default", Life(f"w{place}", 1, 1), clock)).version.number

    def push(self, place, clock):
        self.ask(Push(Life(f"w{place}", 1, 1), clock, self.read[place], UpdateKind.GRADIENT, 1))

    def step(self, place, clock):
        self.pull(place, clock)
        self.push(place, clock)


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("bound", range(4))
def test_the_bound_is_reached(bound, workers):
    run = Run(bound, workers)
    for clock in range(bound):
        run.step(0, clock)
    run.pull(0, bound)
    for clock in range(2 * bound + 1):
        for place in range(1, workers):
            run.step(place, clock)
    run.push(0, bound)
    assert run.staleness[-1] == (2 * bound + 1) * (workers - 1)
    assert max(run.staleness) == run.staleness[-1]
