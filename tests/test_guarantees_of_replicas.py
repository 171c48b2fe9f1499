"""The checker of histories knows replicas: a recorded run of one passes, and no doctored one does."""

import json
from itertools import count

import pytest

from leeway.protocol.lives import Life
from leeway.protocol.membership import Heartbeat, Join, Leave
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.replicas import Place
from leeway.ps.core import saved
from tests.guarantees import Violated, check, judge
from tests.test_guarantees import Recording, asked, change, every, remove_effect, remove_row


class Replicas(Recording):
    """w0 and w1 are workers, r0 is a replica of two stages; each pulls and pushes as its last grant says."""

    def __init__(self):
        super().__init__("async")
        self.sessions = count()
        self.processes = {}
        for stage in range(2):
            self.replace(stage)

    def replace(self, stage):
        """A new process for this stage; the replica's life ends, or goes on to begin."""
        self.processes[stage] = f"process-{next(self.sessions)}"
        self.rejoin(stage)

    def rejoin(self, stage, process=None):
        place = Place(stage, 2, f"stage-{stage}", {"model": "a"})
        self.ask(Join("r0", process or self.processes[stage], place=place, wait_seconds=100.0))

    @property
    def replica(self):
        return self.machine.membership.of_rank("r0")

    def stage(self, stage):
        return Life("r0", 1, self.replica.number, stage)

    def pull_stage(self, stage):
        clock = self.replica.groups["default"].clock
        self.ask(Pull(life=self.stage(stage), clock=clock, wait_seconds=100.0))

    def push_stage(self, stage, kind=UpdateKind.GRADIENT):
        progress = self.replica.groups["default"]
        version, _ = progress.grants[0]
        part = (0, 1) if kind is UpdateKind.SKIP else (stage, 2)
        samples = 0 if kind is UpdateKind.SKIP else 8
        push = Push(self.stage(stage), progress.clock, version, kind, samples, part=part[0], parts=part[1])
        self.ask(push)
        return push

    def step(self):
        self.pull_stage(0)
        self.pull("w0")
        self.push("w0")
        self.pull_stage(1)
        self.push_stage(1)
        self.push_stage(0)


@pytest.fixture
def run():
    """Two iterations, of which the second is dropped in the middle by a new process; a third, and a skip."""
    run = Replicas()
    run.step()
    run.pull_stage(0)
    run.push_stage(0)
    before = run.stage(0)
    run.replace(1)
    run.ask(Heartbeat(before))
    run.rejoin(0)
    run.step()
    run.pull_stage(0)
    run.push_stage(1, UpdateKind.SKIP)
    run.ask(Leave(run.stage(0)))
    return run


@pytest.fixture
def rows(run):
    return run.rows


def test_facts(rows):
    facts = judge(rows)
    of_replica = {name[3:]: version for name, version in facts.applied.items() if name[2] == "r0"}
    assert of_replica == {(1, 0): 3, (2, 0): 5}
    assert facts.told[1, "default", "r0", 2, 1] == "skipped"
    lives = [(rank, incarnation, reason) for _, rank, incarnation, reason in facts.ended]
    assert lives == [("r0", 1, "new-session"), ("r0", 2, "left")]


def test_what_was_accepted_is_counted_over_lives_and_starts(run):
    run.rejoin(0)
    state, _ = saved.save(run.machine)
    run.machine = saved.restore(run.machine.settings, json.loads(json.dumps(state)), [], 1, float(len(run.rows)))
    started = run.rows[0] | {"t": len(run.rows), "state": json.loads(json.dumps(state))}
    run.rows.append(started)
    run.rejoin(0)
    run.rejoin(1)
    assert run.replica.number == 3
    check(run.rows)
    started["state"]["ranks"]["r0"]["committed"]["default"] = 2
    with pytest.raises(Violated, match="a clean start goes on from the state of the stop"):
        check(run.rows)


def test_whose_place_was_taken_stays_out_behind_a_start(run):
    old = run.processes[0]
    run.replace(0)
    state, _ = saved.save(run.machine)
    run.machine = saved.restore(run.machine.settings, json.loads(json.dumps(state)), [], 2, float(len(run.rows)))
    run.rows.append(run.rows[0] | {"t": len(run.rows), "epoch": 2, "state": json.loads(json.dumps(state))})
    run.rejoin(0, old)
    check(run.rows)
    reply = list(every(run.rows, "Answered"))[-1]
    assert reply["reply"]["error"]["code"] == "fenced"
    reply["reply"] = {"is": "NotYet", "reason": "waiting-for-stages", "detail": "", "waiting_for": []}
    with pytest.raises(Violated, match="whose place was taken does not come back"):
        check(run.rows)


def of_stage(kind, stage, place=0, **fields):
    """Change a message of this stage."""

    def doctor(rows):
        matching = [row for row in rows if asked(row, kind)]
        messages = [row["event"]["message"] for row in matching]
        mine = [one for one in messages if (one.get("place") or one.get("life") or {}).get("stage") == stage]
        mine[place].update(fields)

    return doctor


def grant_of_stage(stage, place=0, **fields):
    """Change what a stage was granted."""

    def doctor(rows):
        mine = [row for row in rows if asked(row, "Pull") and row["event"]["message"]["life"]["stage"] == stage]
        next(every([mine[place]], "Granted")).update(fields)

    return doctor


def leave_a_part_out(rows):
    step = next(one for one in every(rows, "Contribution") if one["rank"] == "r0")
    step["bodies"].pop()


def bring_a_part_twice(rows):
    step = next(one for one in every(rows, "Contribution") if one["rank"] == "r0")
    step["bodies"] = step["bodies"][:1] * 2


def bring_the_part_of_a_dropped_iteration(rows):
    """In place of the one of the life after it."""
    pushes = [row for row in rows if asked(row, "Push") and row["event"]["message"]["life"]["stage"] == 0]
    dropped = pushes[1]["event"]["request"]
    for row in rows:
        row["effects"] = [one for one in row.get("effects", ()) if dropped not in one.get("bodies", ())]
    step = [one for one in every(rows, "Contribution") if one["rank"] == "r0"][1]
    step["bodies"][0] = dropped


def swap(rows):
    """Each stage says that it is the other one."""
    for push in every(rows, "Push"):
        if push["life"]["stage"] is not None:
            push["life"]["stage"] = 1 - push["life"]["stage"]


def carry_one_tensor(rows):
    for push in every(rows, "Push"):
        push["keys"] = ["weight"]


def tell_the_others_that_they_are_fenced(rows):
    error = next(one["error"] for one in every(rows, "Refused") if one["error"]["code"] == "stage-replaced")
    error["code"] = "fenced"


def live_on(rows):
    """The stage that says goodbye is let go, and its life goes on."""
    remove_effect("Ended", 1)(rows)


@pytest.mark.parametrize(
    ("doctor", "guarantee"),
    [
        (grant_of_stage(1, version="1.2"), "all stages of a replica get one version"),
        (grant_of_stage(1, round=3), "all stages of a replica get one version"),
        (grant_of_stage(0, version="1.0"), "a pull gets the newest version"),
        (leave_a_part_out, "an update is applied whole|each stage brings its part"),
        (bring_a_part_twice, "what is applied was pushed, and once"),
        (bring_the_part_of_a_dropped_iteration, "an update is of one iteration|only a live one's push is taken"),
        (swap, "each stage brings its part"),
        (of_stage("Push", 0, version=0), "the parts of an update are computed from one version"),
        (carry_one_tensor, "a tensor is in one part of an update"),
        (tell_the_others_that_they_are_fenced, "a stage is told how its life has ended"),
        (change("Began", 2, stages=3), "a replica begins when all its stages are there"),
        (change("GroupState", -1, committed=0), "a rank goes on behind what was accepted of it"),
        (change("GroupState", -1, committed=2), "a rank goes on behind what was accepted of it"),
        (change("Staged", 0, missing=[0, 1]), "who waits is told which parts are missing"),
        (change("Pushed", -1, disposition="applied"), "what is told is what was done"),
        (change("Stage", 0, address="elsewhere"), "a stage is told of all stages of its life"),
        (change("Pin", 0, versions=[]), "what replicas were granted is kept, and nothing else"),
        (change("Pin", 1, versions=[1]), "what replicas were granted is kept, and nothing else"),
        (remove_effect("Pin", 2), "what replicas were granted is kept, and nothing else"),
        (live_on, "a life without one of its stages has come to its end"),
        (remove_row("Join", 2), "a replica begins when all its stages are there"),
    ],
)
def test_what_must_not_happen_to_a_replica(rows, doctor, guarantee):
    doctor(rows)
    with pytest.raises(Violated, match=guarantee):
        check(rows)
