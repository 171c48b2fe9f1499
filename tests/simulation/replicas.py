"""A run of replicas and workers that train one model: processes of stages among the others, and what befalls them.

The one rule: what differs from a run of workers alone is chosen here, and nothing else: who has which stage.
"""

from leeway.protocol.membership import Join
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.protocol.replicas import Place
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.core.effects import Accepted
from tests.simulation.invariants import iteration_of
from tests.simulation.process import Loop, Process
from tests.simulation.simulation import TROUBLE_SECONDS, VERBS, Simulation, Trouble
from tests.simulation.stage import Stage, State

# The model's tensors: as many as the most stages that a replica has here.
SPECS = tuple(TensorSpec(f"layer{place}", (2,), "float32", Kind.TRAINABLE) for place in range(4))
PLAN = {"model": "four layers"}
# So long all may go on after the trouble before somebody comes for those who have ended too early.
GOING_ON_SECONDS = 60.0


class Replicas(Simulation):
    """Of each replica the seed chooses how many stages it has. `stages`: among which; `workers`: likewise."""

    kind = " replicas"

    def __init__(self, seed: int, *, stages=(1, 2, 2, 3, 4), workers=(0, 0, 1, 2), **chosen) -> None:
        self.how_many, self.beside = stages, workers
        self.stages: dict[str, int] = {}
        # By iteration, the number of its update.
        self.numbers: dict[tuple, int] = {}
        # When the newest process of a replica that has lived before came, until an update is accepted; and how long
        # that took each time.
        self.replaced: dict[str, float] = {}
        self.absences: list[float] = []
        super().__init__(seed, **chosen)

    def _ranks(self, count):
        random = self.random
        self.stages = {f"r{place}": random.choice(self.how_many) for place in range(1 + count // 3)}
        of_replicas = [f"{rank}/{stage}" for rank, stages in self.stages.items() for stage in range(stages)]
        return [*of_replicas, *(f"w{place}" for place in range(random.choice(self.beside)))]

    @property
    def units(self) -> dict[str, list[str]]:
        """By rank, as the server knows it, its processes."""
        found: dict[str, list[str]] = {}
        for rank in self.ranks:
            found.setdefault(rank.partition("/")[0], []).append(rank)
        return found

    def _troubles(self):
        random = self.random
        units = self.units
        # Of one at least every process stays, or comes back.
        safe = random.choice(list(units))
        found = []
        for verb in (random.choice(VERBS) for _ in range(random.choice((0, 1, 2, 3, 5, 7)))):
            mortal = [rank for unit, ranks in units.items() for rank in ranks if unit != safe]
            for_good = verb in ("die", "leave")
            if for_good and not mortal:
                continue
            rank = random.choice(mortal if for_good else self.ranks)
            at, seconds = random.uniform(0.0, TROUBLE_SECONDS), random.uniform(0.2, 7.0)
            found.append(Trouble(at, verb, rank, seconds, random.choice(self.policies)))
        return sorted(found, key=lambda one: one.at)

    def _workers(self, most):
        gone = {one.rank.partition("/")[0] for one in self.troubles if one.verb in ("die", "leave")}
        return len(self.units.keys() - gone)

    def _groups(self, least, failing):
        groups = super()._groups(least, failing)
        self.specs = {DEFAULT_GROUP: SPECS}
        return groups

    def _process(self, rank, name):
        replica, _, stage = rank.partition("/")
        slow_seconds = self.random.choice((0.1, 0.3, 1.0))
        if not stage:
            return Process(self, rank, name, Loop(slow_seconds), self.specs)
        stages = self.stages[replica]
        names = [spec.name for spec in SPECS]
        owned = tuple(names[int(stage) :: stages])
        place = Place(int(stage), stages, f"http://{name}", PLAN, keys=tuple(names), owned=owned)
        return Stage(self, rank, name, place, SPECS, slow_seconds)

    # What is known of replicas beside the machine.

    def update_of(self, push) -> int:
        """All stages of an iteration have one number for its update."""
        if iteration_of(push) not in self.numbers:
            self.updates += 1
            self.numbers[iteration_of(push)] = self.updates
        return self.numbers[iteration_of(push)]

    def _takes(self, process, ask, server_life):
        is_new = isinstance(ask, Join) and ask.place and process.former is None
        if is_new and self.invariants.facts.batches.get(ask.rank):
            self.replaced[ask.rank] = self.clock.now
        super()._takes(process, ask, server_life)

    def perform(self, effect):
        if isinstance(effect, Accepted) and (since := self.replaced.pop(effect.rank, None)) is not None:
            self.absences.append(self.clock.now - since)
        super().perform(effect)

    # The end.

    def _may_lose_state(self):
        """Who has finished does not go back to it: the other stages of its replica would wait for ever."""
        return all(one.endings == {None} for one in self.processes)

    def _needs_help(self):
        """Or one stage was told that the end had come, another died before it was, and nobody else is left."""
        return super()._needs_help() or (
            self.clock.now > TROUBLE_SECONDS + GOING_ON_SECONDS
            and self.machine is not None
            and not self.starting
            and not self.invariants.finished
            and not self.machine.membership.live()
            and all(one.state is State.JOINING for one in self.processes if not one.ended and isinstance(one, Stage))
        )

    def _helpers(self):
        """Of a rank that nothing has befallen for good, whoever is not there."""
        living = {one.rank for one in self.processes if not one.ended}
        whole = [ranks for ranks in self.units.values() if not any(self._is_gone(rank) for rank in ranks)]
        return [rank for rank in whole[0] if rank not in living]
