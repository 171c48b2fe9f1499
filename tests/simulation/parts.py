"""A run of several groups: parts that the workers make or a configuration names, with policies and ends of their own.

The one rule: what differs from a run of one group is chosen here, and nothing else: who trains what, in which order.
"""

from functools import partial

from leeway.protocol import parts
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.tuning import SetPolicy
from leeway.ps.core.events import Asked
from leeway.ps.core.settings import GroupSettings
from tests.simulation.process import Loop, Process
from tests.simulation.simulation import TROUBLE_SECONDS, Simulation

# So long all may go on after the trouble before somebody is sent into a group that lacks the last iterations.
GOING_ON_SECONDS = 60.0


class SeveralParts(Simulation):
    """`ends`: among which the seed chooses each part's own end. `in_order`: whether all step their parts in the same
    order; None: as the seed has it.
    """

    kind = " parts"

    def __init__(self, seed: int, *, ends=(None, None, 0, 2, 4, 7), in_order=None, **chosen) -> None:
        self.ends, self.in_order = ends, in_order
        super().__init__(seed, **chosen)

    def _groups(self, least, failing):
        random = self.random
        names = ["D", "G", "E"][: random.choice((2, 2, 3))]
        self.specs = {name: (TensorSpec(f"{name}/weight", (2,), "float32", Kind.TRAINABLE),) for name in names}
        self.made = tuple(name for name in names if random.random() < 0.4)
        self.failing = self.luck.choice((0.0, 0.0, 0.1, 0.3)) if failing is None else failing
        named = [name for name in names if name not in self.made]
        ends = {name: random.choice(self.ends) for name in named}
        if not self.made and not any(end != 0 for end in ends.values()):
            ends[named[0]] = None
        self._loops(names)
        groups = [self._group(name, (parts.pattern(name),), least, ends[name]) for name in named]
        if self.made or random.random() < 0.5:
            # The settings of the parts that are made; nobody is in it.
            groups.append(self._group("default", ("*",), least, None))
        return tuple(groups)

    def _group(self, name, keys, least, until):
        terms = PolicyTerms(*self.random.choice(self.policies))
        # A start refuses a rule that needs more than a quorum has.
        most = min(terms.quorum or 2, len(self.ranks))
        least = min(most, self.luck.choice((1, 1, 1, 2))) if least is None else least
        return GroupSettings(terms, name, keys, least_updates=least, until=until)

    def _loops(self, names):
        """Who steps what: the first rank all of it, so that every part has somebody."""
        random = self.random
        in_order = random.random() < 0.4 if self.in_order is None else self.in_order
        self.loops = {}
        for rank in self.ranks:
            mine = list(names)
            if rank != self.ranks[0] and random.random() < 0.25:
                mine = [name for name in names if random.random() < 0.5] or names[:1]
            if not in_order:
                random.shuffle(mine)
            made = tuple(name for name in mine if name in self.made)
            ahead = random.random() < 0.7
            # Who asks again and again instead of waiting at the server is in no circle that it could see.
            self.loops[rank] = partial(Loop, waits_seconds=(3.0, 6.0), groups=tuple(mine), create=made, ahead=ahead)

    def _workers(self, most):
        gone = {one.rank for one in self.troubles if one.verb in ("die", "leave")}
        counts = [
            sum(name in loop.keywords["groups"] for rank, loop in self.loops.items() if rank not in gone)
            for name in self.specs
        ]
        return min(counts)

    def _process(self, rank, name):
        return Process(self, rank, name, self.loops[rank](self.random.choice((0.1, 0.3, 1.0))), self.specs)

    def _switch(self, policy):
        self.requests += 1
        group = self.luck.choice(list(self.machine.groups))
        self.step(Asked(self.requests, SetPolicy(PolicyTerms(*policy), group)))

    def _may_lose_state(self):
        """Who has finished a part does not go back to it: a start from before that would wait for ever."""
        return all(one.endings == {None} for one in self.processes)

    def _needs_help(self):
        """Or the last ones of a group have died, and no other has come to its end: the rest would go on for ever."""
        return super()._needs_help() or (
            self.clock.now > TROUBLE_SECONDS + GOING_ON_SECONDS
            and self.machine is not None
            and not self.invariants.finished
            and any(not known.clocks and known.arrived and not known.done for known in self.invariants.known.values())
        )
