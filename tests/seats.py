"""What is known of replicas by a history: which processes ask for their stages, who is seated, whose place was taken.

The one rule: nothing is believed because the server says so. Who may sit is worked out here from the joins alone.
"""

import json
from collections import deque
from dataclasses import dataclass, field

from tests.known import must

# So many processes of a stage are remembered, and so many lives of a rank.
REMEMBERED = 16
# By how a life has ended: what the stage by which it did is told, and what the others are.
TOLD = {
    "new-session": ("fenced", "stage-replaced"),
    "lease-expired": ("evicted", "stage-lost"),
    "left": ("left", "stage-lost"),
    "iteration-too-long": ("evicted", "evicted"),
    "grant-lost": ("stage-lost", "stage-lost"),
}
ENDINGS = frozenset(code for codes in TOLD.values() for code in codes)


@dataclass(frozen=True)
class Asking:
    """A process that wants a place: its id, where it is reached, and what has to be the same in all stages."""

    session: str
    address: str
    alike: str = ""

    @classmethod
    def by(cls, join):
        place = join["place"]
        alike = json.dumps([place["stages"], place["plan"]], sort_keys=True)
        return cls(join["session"], place["address"], alike)


@dataclass
class Over:
    """How a life has ended. `culprit`: the stage by which it did, as soon as that is known."""

    reason: str
    culprit: int | None
    sessions: dict


@dataclass
class Seats:
    """By rank: `live`, the stages of the replicas that live; `asked`, those that are there for the next life.

    `taken`: by rank and stage, the processes that have had the place, the newest last. `ended`: by life.
    """

    live: dict = field(default_factory=dict)
    asked: dict = field(default_factory=dict)
    taken: dict = field(default_factory=dict)
    ended: dict = field(default_factory=dict)
    # Rank, stage and process of the join that is being decided.
    joining: tuple | None = None

    @classmethod
    def restored(cls, state):
        seats = cls()
        for rank, stages in state.get("processes", {}).items():
            for stage, known in stages.items():
                seats.taken[rank, int(stage)] = deque(known, maxlen=REMEMBERED)
        for rank, saved in state["ranks"].items():
            life = saved["lives"][-1] if saved["lives"] else None
            if life and life["ended"] is None and life.get("seats"):
                seats.live[rank] = {
                    stage: Asking(seat["session"], seat["place"].get("address", ""))
                    for stage, seat in enumerate(life["seats"])
                }
        return seats

    def is_asked(self, join, *, refused):
        """A process asks for a place. `refused`: it is told so at once."""
        rank, stage = join["rank"], join["place"]["stage"]
        known = self.taken.setdefault((rank, stage), deque(maxlen=REMEMBERED))
        was_taken = join["session"] in known and known[-1] != join["session"]
        must(refused or not was_taken, "whose place was taken does not come back", join=join)
        if refused:
            return
        if join["session"] not in known:
            known.append(join["session"])
        asking = Asking.by(join)
        seated = self.live.get(rank, {}).get(stage)
        if seated and seated.session == asking.session:
            self.live[rank][stage] = asking
            return
        self.joining = (rank, stage, asking)
        if rank not in self.live:
            self._sits_down(rank, stage, asking)

    def _sits_down(self, rank, stage, asking):
        there = self.asked.setdefault(rank, {})
        if any(one.alike != asking.alike for one in there.values()):
            there.clear()
        there[stage] = asking

    def is_left(self, life):
        """A stage says goodbye; where its life has ended, the process may be there for the next one."""
        over, there = self.ended.get((life["rank"], life["incarnation"])), self.asked.get(life["rank"], {})
        stage = life["stage"]
        if over and stage in there and there[stage].session == over.sessions.get(stage):
            del there[stage]

    def is_forgotten(self, rank, stage):
        """It was silent for its lease while the replica formed."""
        must(rank not in self.live, "the life has not begun", rank=rank, stage=stage)
        self.asked.get(rank, {}).pop(stage, None)

    def began(self, rank, stages):
        there = self.asked.pop(rank, {})
        if stages is not None:
            whole = there.keys() == set(range(stages))
            must(whole, "a replica begins when all its stages are there", rank=rank, there=set(there))
            self.live[rank] = there

    def are_told(self, rank, replica):
        """A stage is told where the others are."""
        addresses = [self.live[rank][stage].address for stage in range(len(self.live[rank]))]
        told = [stage["address"] for stage in replica["stages"]]
        must(told == addresses, "a stage is told of all stages of its life", told=told, there=addresses)

    def end(self, rank, incarnation, reason):
        if (seats := self.live.pop(rank, None)) is None:
            return
        self.ended.pop((rank, incarnation - REMEMBERED), None)
        comes = self.joining if self.joining and self.joining[0] == rank else None
        culprit = comes[1] if comes and reason == "new-session" else None
        self.ended[rank, incarnation] = Over(reason, culprit, {stage: one.session for stage, one in seats.items()})
        if comes:
            self._sits_down(*comes)

    def is_told(self, life, code):
        """What a stage is told of the end of its life is true, and one stage alone is told that it was by it."""
        over = self.ended.get((life["rank"], life["incarnation"]))
        if over is None or code not in ENDINGS:
            return
        its, others = TOLD[over.reason]
        if over.reason == "new-session" and over.culprit is None:
            others = its  # a worker has taken the rank
        if code == its != others and over.culprit is None:
            over.culprit = life["stage"]
        right = its if over.culprit == life["stage"] else others
        must(code == right, "a stage is told how its life has ended", life=life, told=code, ended=over)


def is_whole(name, pushes):
    """All parts of an update are in its step, each once; of a replica each stage's. Those of before a start are not
    known.
    """
    there = [(push["part"], push["parts"]) for push in pushes]
    must(there == [(part, len(there)) for part in range(len(there))], "an update is applied whole", name=name)
    stages = [push["life"]["stage"] for push in pushes]
    must(stages in ([None] * len(there), [*range(len(there))]), "each stage brings its part", name=name)
    computed = {(push["version"], push["round"], push["samples"]) for push in pushes}
    must(len(computed) <= 1, "the parts of an update are computed from one version", name=name, found=computed)
    keys = [key for push in pushes for key in push["keys"]]
    must(len(keys) == len(set(keys)), "a tensor is in one part of an update", name=name, keys=keys)
