"""What a checker of histories knows, and what a start of a server has to go on from.

The one rule: behind a clean stop everything is as it was; behind a kill it is what had been saved, and what was told
and not saved is noted as lost.
"""

from leeway.protocol.ranks import DEFAULT_GROUP
from tests.known import Facts, Group, must
from tests.seats import Seats


class Starts:
    def __init__(self):
        self.facts = Facts()
        self.groups = {}
        # By name: what became of an update, as it follows from the events: disposition, version, staleness, next clock.
        self.disposed = {}
        # By name: why an update that was held is in no version.
        self.without_step = {}
        self.t = 0.0
        # Whether the run is over, whatever its clocks say.
        self.over = False

    def start(self, row):
        epoch, state = row["epoch"], row["state"]
        must(not self.facts.epochs or epoch >= self.facts.epochs[-1], "epochs never go back", epoch=epoch)
        goes_on = epoch in self.facts.epochs
        known = {name: self._state(group) for name, group in self.groups.items()}
        if not goes_on:
            self.facts.epochs.append(epoch)
        self.epoch = epoch
        self.t = row.get("t", 0.0)
        self.messages, self.bodies = {}, {}
        self.live, self.one_after_another, self.over = {}, set(), False
        self.seats = Seats.restored(state)
        self.kept_out = set(state.get("quarantine", ()))
        for rank, saved in state["ranks"].items():
            if saved["lives"] and saved["lives"][-1]["ended"] is None:
                self.live[rank] = saved["lives"][-1]["number"]
                if saved["lives"][-1].get("one_after_another"):
                    self.one_after_another.add(rank)
        # A server knows saved bodies under the first numbers.
        numbers = row.get("bodies", range(1, 1 << 30))
        self.settings = row["settings"]
        configured = [group["name"] for group in self.settings["groups"]]
        made = [name for name in state.get("parts", ()) if name not in configured]
        must({*configured, *made} == state["groups"].keys(), "no group comes or goes with a start", made=made)
        self.groups = {name: self._restored(row["settings"], name, state, numbers) for name in (*configured, *made)}
        if goes_on:
            told = {name: self._state(group) for name, group in self.groups.items()}
            must(told == known, "a clean start goes on from the state of the stop", told=told, known=known)
        elif known:
            in_state = {name[2:]: name for group in self.groups.values() for name in group.held.values()}
            versions = {name: group.published for name, group in self.groups.items()}
            for name, disposition in self.facts.told.items():
                applied = self.facts.applied.get(name)
                safe = name[2:] in in_state if applied is None else applied <= versions.get(name[1], 0)
                kept = disposition in ("applied", "held") and name not in self.facts.unmade
                if name[0] != epoch and kept and not safe:
                    self.facts.lost.add(name)

    def _restored(self, settings, group_name, state, numbers):
        saved, ranks = state["groups"][group_name], state["ranks"]
        group = Group.restored(saved, settings_of(group_name, settings), settings, self.t)
        for rank, saved_rank in ranks.items():
            group.committed[rank] = saved_rank.get("committed", {}).get(group_name, 0)
            for life in saved_rank["lives"]:
                if progress := life["groups"].get(group_name):
                    self._progress(group, (self.epoch, group_name, rank, life["number"]), progress)
        for rank, contribution in saved["held"].items():
            if contribution["samples"]:
                lives = [life["number"] for life in ranks[rank]["lives"] if _held(life, group_name, group.round)]
                must(lives, "what is held is the last push of a life", rank=rank, round=group.round)
                name = group.held[rank] = (self.epoch, group_name, rank, lives[-1], group.round)
                for place in contribution["bodies"]:
                    self.bodies[numbers[place]] = (name, contribution["samples"], None)
        return group

    def _progress(self, group, life, progress):
        """How far a life was; of one that has ended only its last push is left."""
        _, _, rank, number = life
        live = self.live.get(rank) == number
        if live:
            group.clocks[rank] = progress["clock"]
            group.grants[rank] = {tuple(grant) for grant in progress["grants"]}
            group.owed[rank] = progress["owed"]
            if progress["passed"] is not None:
                group.passed[rank] = group.asked_from[rank] = progress["passed"]
        if record := progress["record"]:
            name = (*life, record["clock"])
            self.disposed[name] = tuple(record[fact] for fact in ("disposition", "version", "staleness", "next_clock"))
            self.facts.saved.add(name)
            for why in ("step_failed", "too_few"):
                if record[why]:
                    self.without_step[name] = why
            if live:
                group.last[rank] = name

    @staticmethod
    def _state(group):
        """What has to be the same behind a clean stop."""
        held = {rank: name[3:] for rank, name in group.held.items()}
        committed = {rank: count for rank, count in group.committed.items() if count}
        return group.published, group.min_clock, group.clocks, held, committed


def _held(life, group, round_number):
    record = life["groups"].get(group, {}).get("record")
    return record and record["clock"] == round_number and record["disposition"] == "held"


def settings_of(name, settings):
    """A part that no table names has the default group's settings, and the run's end."""
    by_name = {group["name"]: group for group in settings["groups"]}
    default = by_name.get(DEFAULT_GROUP, settings["groups"][-1])
    return by_name.get(name, default | {"until": None})
