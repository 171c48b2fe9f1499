from __future__ import annotations

import json

import pytest

from leeway.protocol.barriers import Barrier, Passed
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Departed, Heartbeat, Join, Leave
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.tuning import SetPolicy
from leeway.protocol.versions import Version
from leeway.ps.core import describe
from leeway.ps.core.effects import Apply, Contribution, Pin
from leeway.ps.core.rounds import Held
from leeway.ps.core.saved import restore, save
from leeway.ps.core.settings import GroupSettings, Settings


@pytest.fixture
def restart():
    """The server goes on from its own saved state, which has been through JSON. Bodies get 1000 added."""

    def again(server, epoch=1, settings=None):
        state, bodies = save(server.machine)
        state = json.loads(json.dumps(state))
        server.machine = restore(
            settings or server.machine.settings, state, [body + 1000 for body in bodies], epoch, server.now
        )
        server.coming.clear()
        return state

    return again


def two(server):
    server.offer()
    return server.join("w0"), server.join("w1")


def test_an_idle_server(serve, restart):
    server = serve()
    restart(server)
    assert describe.line(server.machine) == "nobody  min=0 v0"


def test_what_is_saved_twice_is_the_same(serve, restart):
    server = serve("sync", workers=2)
    w0, w1 = two(server)
    server.walk(w0)
    server.join("w2")
    server.ask(Leave(w1))
    first = restart(server)
    assert restart(server) == first


def test_workers_are_live_again_with_fresh_leases_however_far_apart(serve, restart):
    server = serve("ssp", 9, workers=2)
    w0, w1 = two(server)
    for clock in range(4):
        server.walk(w0, clock)
    server.walk(w1)
    server.now = 9.0
    restart(server)
    server.tick(9.0)
    assert describe.line(server.machine) == "w0@4 w1@1  min=1 v6"
    assert server.machine.groups["default"].roster.index_of("w1") == 1
    server.tick(1.0)
    assert server.machine.membership.live() == []


def test_grants_hold_after_a_clean_restart_and_the_time_in_them_begins_anew(serve, restart):
    server = serve(max_iteration_seconds=5.0, lease_seconds=100.0)
    w0, _ = two(server)
    server.pull(w0)
    server.now = 4.0
    restart(server)
    assert server.tick(4.0) == []
    assert server.push(w0).version == 2


def test_what_was_in_flight_counts_as_published(serve, restart):
    server = serve("ssp", 3, workers=2)
    w0, w1 = two(server)
    server.pull(w0)
    server.pull(w1)
    server.holding = True
    server.push(w0)
    server.push(w1)
    restart(server)
    server.holding = False
    group = server.machine.groups["default"]
    assert (group.published, group.decided, group.in_flight, group.min_clock) == (3, 3, {}, 1)
    told = server.push(w0, version=1)
    assert (told.disposition, told.version, told.reason) == ("applied", 2, Reason.REPEATED)
    assert server.pull(w0, 1).version == Version(1, 3)


def test_the_step_of_a_round_that_was_in_flight_counts_as_published(serve, restart):
    server = serve("sync", workers=2)
    w0, w1 = two(server)
    server.pull(w0)
    server.pull(w1)
    server.push(w0)
    server.holding = True
    server.push(w1)
    restart(server)
    assert describe.line(server.machine) == "w0@1 w1@1  min=1 v2 round 1 waiting"
    assert server.pull(w0, 1).round == 1


def test_held_contributions_are_applied_from_their_bodies(serve, restart):
    server = serve("sync", workers=3)
    w0, w1 = two(server)
    w2 = server.join("w2")
    for life in (w0, w1, w2):
        server.pull(life)
    server.push(w0, part=0, parts=2, keys=("a",))
    server.push(w0, part=1, parts=2, keys=("b",))
    bodies = (server.requests - 1, server.requests)
    server.push(w2, kind=UpdateKind.SKIP)
    restart(server)
    rounds = server.machine.groups["default"].rounds
    moved = tuple(body + 1000 for body in bodies)
    assert rounds.held == {"w0": Held(UpdateKind.GRADIENT, 4, moved), "w2": Held(UpdateKind.SKIP, 0, ())}
    effects = []
    step = server.machine.step
    server.machine.step = lambda event, now: effects.extend(found := step(event, now)) or found
    server.push(w1)
    (apply,) = [effect for effect in effects if isinstance(effect, Apply)]
    assert apply.contributions == (Contribution("w0", 4, moved), Contribution("w1", 4, (server.requests,)))


def test_the_ended_are_remembered_with_their_last_disposition(serve, restart):
    server = serve()
    w0, w1 = two(server)
    server.walk(w0)
    server.join("w0", "another")
    server.ask(Leave(w1))
    restart(server)
    assert server.push(w0).version == 2
    told = server.ask(Join("w0", "w0-session"))
    assert told.error.code is Code.FENCED
    assert told.error.facts["last"] == {"default": {"clock": 0, "disposition": "applied"}}
    assert server.ask(Heartbeat(w1)).error.detail == "w1#1 left"
    assert server.ask(Join("w0", "another")).incarnation == 2
    assert server.join("w0", "third").incarnation == 3


def test_staged_parts_and_waiting_requests_are_not_saved(serve, restart):
    server = serve("ssp", 0, workers=2)
    w0, w1 = two(server)
    server.walk(w0)
    waiting = server.send(Pull(life=w0, clock=1, wait_seconds=50))
    server.pull(w1)
    server.push(w1, part=0, parts=2)
    restart(server)
    assert server.push(w1, part=1, parts=2).missing == (0,)
    server.tick(1.0)
    assert waiting not in server.replies


def test_the_policy_is_the_saved_one(serve, restart):
    server = serve("async", workers=2)
    w0, _ = two(server)
    server.walk(w0)
    server.ask(SetPolicy(PolicyTerms("ssp", 4)))
    restart(server)
    assert server.machine.groups["default"].policy_state().terms.staleness == 4
    server.ask(SetPolicy(PolicyTerms("sync")))
    restart(server)
    assert server.machine.groups["default"].policy_state().switching_at == 1


def test_keys_stay_fixed(serve, restart):
    server = serve()
    w0, _ = two(server)
    server.walk(w0)
    restart(server)
    assert list(server.machine.groups["default"].specs) == ["w"]
    assert server.offer("b").error.code is Code.SCHEMA_CLOSED


@pytest.mark.parametrize(("joined", "begun", "waits"), [(1, False, True), (2, False, False), (1, True, False)])
def test_a_checkpoint_of_before_the_beginning_was_saved(serve, joined, begun, waits):
    """Who began without waiting goes on without waiting; else the ranks that it knows have joined."""
    server = serve("async", workers=2)
    for life in range(joined):
        server.join(f"w{life}")
    state, _ = save(server.machine)
    group = state["groups"]["default"]
    del group["assembled"], group["arrived"]
    group["started"] = begun
    machine = restore(server.machine.settings, state, [], 2, 0.0)
    assert machine.groups["default"].assembled is not waits


def test_a_run_that_has_begun_does_not_wait_for_all_its_workers_again(serve, restart):
    server = serve("sync", workers=2)
    w0, w1 = two(server)
    server.ask(Leave(w1))
    server.walk(w0)
    server.ask(Leave(w0))
    restart(server)
    assert server.pull(server.join("w5"), 2).round == 2


def test_barriers_go_on_from_their_generation(serve, restart):
    server = serve()
    w0 = server.join("w0")
    server.ask(Barrier(w0, "b", 0))
    restart(server)
    assert server.ask(Barrier(w0, "b", 0)) == Passed("b", 0)
    assert server.ask(Barrier(w0, "b", 1)) == Passed("b", 1)


def test_after_a_crash_the_epoch_is_a_new_one(serve, restart):
    server = serve()
    w0, _ = two(server)
    server.walk(w0)
    restart(server, epoch=2)
    assert server.pull(w0, 1).error.code is Code.OLD_EPOCH
    again = server.join("w0")
    assert (again.epoch, again.incarnation) == (2, 1)
    assert server.pull(again, 1).version == Version(2, 2)


def test_several_groups(serve, restart):
    groups = (GroupSettings(PolicyTerms("ssp", 1), "a", ("a*",)), GroupSettings(PolicyTerms("sync"), "b", ("b*",)))
    server = serve(groups=groups)
    server.offer("a1", "b1")
    w0 = server.join("w0")
    server.join("w1", groups=("b",))
    server.pull(w0, group="a")
    server.push(w0, group="a")
    before = describe.line(server.machine)
    restart(server)
    assert describe.line(server.machine) == before


def test_a_finished_run_is_finished_again_unless_it_is_to_go_on(serve, restart):
    server = serve(until=1)
    w0 = server.join("w0")
    server.offer()
    server.walk(w0)
    assert server.machine.finished
    restart(server)
    assert [str(effect) for effect in server.tick(0.0)] == ["finished"]
    restart(server, settings=Settings((GroupSettings(PolicyTerms("async")),), until=2))
    assert server.tick(0.0) == []
    assert server.pull(w0, 1).clock == 1


def test_state_that_does_not_fit_is_refused_with_words(serve):
    server = serve()
    state, _ = save(server.machine)
    other = Settings((GroupSettings(name="x"), GroupSettings(name="y")))
    with pytest.raises(
        ValueError,
        match=r"what is saved has the group default, and the settings have none; give \[group.default\] back",
    ):
        restore(other, state, [], 1, 0.0)
    more = Settings((GroupSettings(), GroupSettings(name="x")))
    with pytest.raises(ValueError, match=r"the settings have \[group.x\], and what is saved has no such group"):
        restore(more, state, [], 1, 0.0)
    with pytest.raises(ValueError, match="saved state has format 0, this version reads 1"):
        restore(server.machine.settings, state | {"format": 0}, [], 1, 0.0)


def test_a_saved_policy_under_which_the_rule_means_nothing_is_refused(serve):
    server = serve("async")
    state, _ = save(server.machine)
    ruled = Settings((GroupSettings(PolicyTerms("sync"), least_updates=3, needs_rounds=True),))
    with pytest.raises(ValueError, match="rule of group default is for rounds; under async"):
        restore(ruled, state, [], 1, 0.0)
    server.ask(SetPolicy(PolicyTerms("sync")))
    state, _ = save(server.machine)
    assert restore(ruled, state, [], 1, 0.0).groups["default"].policy_state().terms.mode == "sync"


def test_a_saved_quorum_below_what_the_rule_needs_is_refused(serve):
    ruled = Settings((GroupSettings(PolicyTerms("sync"), least_updates=3, needs_rounds=True),))
    server = serve("sync")
    server.ask(SetPolicy(PolicyTerms("sync", quorum=2, grace_seconds=1.0)))
    state, _ = save(server.machine)
    words = r"that of the checkpoint, sync\(quorum 2, grace 1 s\).* needs 3 updates .* close with 2: resume with"
    with pytest.raises(ValueError, match=words):
        restore(ruled, state, [], 1, 0.0)
    # Also one on the way there.
    server = serve("async")
    server.ask(SetPolicy(PolicyTerms("sync", quorum=2)))
    state, _ = save(server.machine)
    with pytest.raises(ValueError, match=r"that of the checkpoint, sync\(quorum 2, grace auto\)"):
        restore(ruled, state, [], 1, 0.0)
    server.ask(SetPolicy(PolicyTerms("sync", quorum=3)))
    state, _ = save(server.machine)
    assert restore(ruled, state, [], 1, 0.0).groups["default"].policy_state().terms.quorum == 3


def test_the_kind_of_the_last_update_is_saved(serve):
    server = serve("sync", workers=1)
    server.offer()
    life = server.join("w0")
    server.pull(life)
    server.push(life, kind=UpdateKind.MODEL)
    state, _ = save(server.machine)
    progress = state["ranks"]["w0"]["lives"][0]["groups"]["default"]
    assert progress["kind"] == "model"

    def kind():
        machine = restore(server.machine.settings, json.loads(json.dumps(state)), [], 1, 0.0)
        return machine.membership.of_rank("w0").groups["default"].kind

    assert kind() is UpdateKind.MODEL
    progress["kind"] = "x"
    with pytest.raises(ValueError, match="kind"):
        kind()
    # States of before this was known.
    del progress["kind"]
    assert kind() is None


# Replicas.


@pytest.fixture
def replica(serve):
    """A replica that computes in its second life, with a part staged; the worker w0 has gone on meanwhile."""
    server = serve(lease_seconds=1000.0)
    server.offer()
    w0 = server.join("w0")
    server.replica()
    server.sit(1, session="newer")
    server.sit(0)
    lives = [Life("r0", 1, 2, stage) for stage in range(2)]
    for life in lives:
        server.pull(life)
    server.push(lives[1])
    return server, w0, lives


def pushed(server, life, version=1):
    """From a version that the stage was granted before the restart."""
    part = {"part": life.stage, "parts": 2}
    return server.ask(Push(life, 0, version, UpdateKind.GRADIENT, 4, wait_seconds=50.0, **part))


def test_stages_that_have_what_was_granted_go_on_behind_a_restart(replica, restart):
    server, w0, lives = replica
    server.walk(w0)
    restart(server)
    assert server.tick(0.0) == [], "what was superseded is not there to be kept"
    assert pushed(server, lives[1]) is None
    assert pushed(server, lives[0]).version == 3
    assert server.machine.membership.committed("r0") == {"default": 1}


def test_what_was_granted_and_is_the_newest_is_kept_on(replica, restart):
    server, w0, lives = replica
    restart(server)
    assert server.tick(0.0) == [Pin("default", (1,))]
    server.walk(w0)
    assert server.pull(lives[0]).version == Version(1, 1)


def test_a_stage_that_has_to_pull_what_is_gone_ends_the_life(replica, restart):
    server, w0, lives = replica
    server.walk(w0)
    restart(server)
    refused = server.pull(lives[0])
    assert refused.error.code is Code.STAGE_LOST
    assert refused.error.detail == "what r0#2 was granted is gone with a restart of the server"
    assert server.ask(Heartbeat(lives[1])).error.code is Code.STAGE_LOST
    assert server.machine.joins.forming["r0"].missing == (0, 1)


def test_its_share_of_the_data_is_gone_with_it_though_a_stage_holds_the_version(replica, restart):
    server, w0, lives = replica
    server.walk(w0)
    restart(server)
    assert server.pull(lives[0], since=Version(1, 1)).error.code is Code.STAGE_LOST


def test_after_a_crash_the_processes_and_the_count_are_those_of_the_state(replica, restart):
    server, _, lives = replica
    server.push(lives[0])
    restart(server, epoch=2)
    fenced = server.replies[server.sit(1)]
    assert fenced.error.code is Code.FENCED
    joined = server.replies[server.sit(1, session="newer")]
    assert (joined.resumed, joined.incarnation, joined.groups["default"].committed) == (True, 2, 1)
    assert server.ask(Heartbeat(lives[0])).error.code is Code.OLD_EPOCH


def test_how_a_life_ended_and_who_had_left_is_saved(serve, restart):
    server = serve(until=1, workers=2)
    server.offer()
    server.join("w0")
    lives = server.replica()
    server.iterate(lives)
    server.ask(Leave(lives[0]))
    restart(server)
    assert server.ask(Heartbeat(lives[0])).error.code is Code.LEFT
    assert server.ask(Leave(lives[1])) == Departed("r0")
    restart(server)
    told = [server.ask(Heartbeat(life)).error.code for life in lives]
    assert told == [Code.STAGE_LOST, Code.LEFT]


def test_a_replica_that_forms_is_asked_for_again(serve, restart):
    server = serve()
    server.sit(0)
    state = restart(server)
    assert state["ranks"]["r0"] == {"incarnations": 0, "lives": [], "committed": {}}
    assert restart(server) == state
    server.sit(1)
    assert server.replies[server.sit(0)].incarnation == 1


def test_a_state_of_before_there_were_replicas_is_read(serve):
    server = serve()
    server.offer()
    server.walk(server.join("w0"))
    state, _ = save(server.machine)
    state = json.loads(json.dumps(state))
    del state["processes"], state["ranks"]["w0"]["committed"], state["groups"]["default"]["declared"]
    for name in ("seats", "culprit"):
        del state["ranks"]["w0"]["lives"][0][name]
    machine = restore(server.machine.settings, state, [], 1, 0.0)
    assert machine.membership.committed("w0") == {}
    assert describe.line(machine) == "w0@1  min=1 v2"
