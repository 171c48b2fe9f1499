from __future__ import annotations

import pytest

from leeway.protocol import limits
from leeway.protocol.barriers import Barrier, Passed
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Departed, Heartbeat, Join, Leave, Renewed
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import NotYet, Pull
from leeway.protocol.pushes import LastPush, Push, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.tuning import OptimizerState, SetOptimizer, SetPolicy
from leeway.ps.core.deduplication import Fresh
from leeway.ps.core.effects import Answered, Began, Configure, Drop, Ended, Finished, Initialize
from leeway.ps.core.events import Asked, Gone, Paused, Stop
from leeway.ps.core.machine import Machine
from leeway.ps.core.settings import GroupSettings, Settings
from tests.ps.core.conftest import code

GROUPS = (GroupSettings(PolicyTerms("ssp", 0), "a", ("a.*",)), GroupSettings(PolicyTerms("sync"), "b", ("b.*",)))


def spec(name: str, size: int = 3, kind: Kind = Kind.TRAINABLE) -> TensorSpec:
    return TensorSpec(name, (size,), "float32", kind)


# Optimizers.


def test_a_change_of_the_optimizer_takes_its_place_among_the_steps(serve):
    server = serve()
    changed = SetOptimizer("default", {"lr": 0.5})
    effects = server.step(Asked(99, changed))
    assert effects == [Configure("default", {"lr": 0.5}), Answered(99, OptimizerState("default", {"lr": 0.5}))]
    assert str(effects[0]) == "configure default"
    assert code(server.ask(SetOptimizer("nobody", {"lr": 0.5}))) is Code.UNKNOWN_GROUP


# Workers.


def test_a_join_begins_a_life(serve):
    server = serve("ssp", 2, lease_seconds=7.0, until=9)
    effects = server.step(Asked(1, Join("w0", "s")))
    assert effects[0] == Began("w0", 1)
    joined = server.replies[1]
    assert (joined.epoch, joined.incarnation, joined.resumed) == (1, 1, False)
    assert (joined.lease_seconds, joined.index, joined.count, joined.until) == (7.0, 0, 1, 9)
    assert joined.groups["default"].policy == "ssp"


def test_the_same_session_gets_its_life_back(serve):
    server = serve()
    server.offer()
    w0 = server.join("w0", "s")
    server.walk(w0)
    joined = server.ask(Join("w0", "s"))
    assert (joined.resumed, joined.incarnation, joined.groups["default"].clock) == (True, 1, 1)
    assert isinstance(joined.groups["default"].last, LastPush)


def test_a_new_session_fences_the_old_life(serve):
    server = serve()
    old = server.join("w0", "s")
    new = server.join("w0", "t")
    assert new.incarnation == 2
    assert code(server.ask(Heartbeat(old))) is Code.FENCED
    assert code(server.ask(Join("w0", "s"))) is Code.FENCED
    assert server.ask(Heartbeat(new)) == Renewed(10.0)


def test_a_worker_joins_the_groups_it_names(serve):
    server = serve(groups=GROUPS)
    joined = server.ask(Join("w0", "s", ("b",)))
    assert set(joined.groups) == {"b"}
    assert code(server.ask(Join("w1", "s", ("b", "c")))) is Code.UNKNOWN_GROUP
    assert server.machine.membership.of_rank("w1") is None
    life = Life("w0", 1, 1)
    assert code(server.pull(life, group="a")) is Code.UNKNOWN_GROUP
    assert code(server.pull(life, group="c")) is Code.UNKNOWN_GROUP
    for group in ("a", "c"):
        assert code(server.ask(Push(life, 0, 1, UpdateKind.GRADIENT, 4, group))) is Code.UNKNOWN_GROUP


def test_too_many_ranks(serve, monkeypatch):
    monkeypatch.setattr(limits, "MAX_RANKS", 1)
    server = serve()
    server.join("w0")
    assert code(server.ask(Join("w1", "s"))) is Code.BUSY
    assert server.join("w0", "t").incarnation == 2


def test_who_has_not_joined_and_who_is_long_gone(serve):
    server = serve()
    assert code(server.ask(Heartbeat(Life("w0", 1, 1)))) is Code.NOT_JOINED
    for number in range(18):
        server.join("w0", f"s{number}")
    told = server.ask(Heartbeat(Life("w0", 1, 1)))
    assert (code(told), told.error.facts) == (Code.FENCED, {"last": {}})
    assert code(server.ask(Heartbeat(Life("w0", 1, 99)))) is Code.NOT_JOINED


@pytest.mark.parametrize(
    "ask",
    [
        Heartbeat,
        Leave,
        lambda life: Pull(life=life),
        lambda life: Push(life, 0, 1, UpdateKind.GRADIENT, 4),
        lambda life: Barrier(life, "b", 0),
    ],
)
def test_every_request_of_an_old_epoch_is_told_so(serve, ask):
    server = serve()
    server.join("w0")
    told = server.ask(ask(Life("w0", 0, 1)))
    assert (code(told), told.error.facts) == (Code.OLD_EPOCH, {"epoch": 1})


def test_leaving_twice_is_leaving_once(serve):
    server = serve()
    w0 = server.join("w0")
    assert server.ask(Leave(w0)) == Departed("w0")
    assert server.ask(Leave(w0)) == Departed("w0")
    assert code(server.ask(Heartbeat(w0))) is Code.LEFT


def test_leaving_after_an_eviction_is_told_the_eviction(serve):
    server = serve()
    w0 = server.join("w0")
    server.tick(10.0)
    assert code(server.ask(Leave(w0))) is Code.EVICTED


# Time.


@pytest.mark.parametrize(
    "renew",
    [
        lambda server, life: server.ask(Heartbeat(life)),
        lambda server, life: server.ask(Join("w0", "w0-session")),
        lambda server, life: server.pull(life, 7),
        lambda server, life: server.push(life, 7),
        lambda server, life: server.ask(Barrier(life, "b", 7)),
    ],
)
def test_every_request_renews_the_lease_whatever_becomes_of_it(serve, renew):
    server = serve()
    server.offer()
    w0 = server.join("w0")
    server.tick(9.0)
    renew(server, w0)
    server.tick(9.0)
    assert server.machine.membership.of_rank("w0") is not None
    server.tick(1.0)
    assert server.machine.membership.of_rank("w0") is None


def test_nothing_renews_what_has_ended(serve):
    server = serve()
    w0 = server.join("w0")
    server.tick(10.0)
    server.ask(Heartbeat(w0))
    server.ask(Heartbeat(Life("w9", 1, 1)))
    assert server.machine.membership.live() == []


def test_silence_is_eviction_with_its_reason(serve):
    server = serve()
    server.join("w0")
    effects = server.tick(10.0)
    assert effects == [Ended("w0", 1, Reason.LEASE_EXPIRED, "w0#1 was silent for longer than its lease of 10 s")]


def test_a_hung_iteration_is_eviction_too(serve):
    server = serve(max_iteration_seconds=5.0, lease_seconds=100.0)
    server.offer()
    w0 = server.join("w0")
    server.join("w1")
    server.tick(9.0)
    server.pull(w0)
    assert server.tick(4.9) == []
    (ended,) = server.tick(0.1)
    assert (ended.rank, ended.reason) == ("w0", Reason.ITERATION_TOO_LONG)


# Pushes.


def test_a_pause_moves_every_deadline_and_judges_nobody(serve):
    server = serve("ssp", 0, workers=2, lease_seconds=10.0, max_iteration_seconds=15.0)
    server.offer()
    w0, w1 = server.join("w0"), server.join("w1")
    server.pull(w1)
    server.walk(w0)
    pull = server.send(Pull(life=w0, clock=1, wait_seconds=12.0))
    arrival = server.send(Barrier(w0, "b", 0, wait_seconds=13.0))
    server.now += 100.0
    assert server.step(Paused(100.0)) == []
    server.tick(9.9)
    server.ask(Heartbeat(w1))
    assert server.replies.keys().isdisjoint({pull, arrival})
    server.tick(2.1)
    assert isinstance(server.replies[pull], NotYet)
    server.tick(1.0)
    assert isinstance(server.replies[arrival], NotYet)
    assert [effect.reason for effect in server.tick(2.0) if isinstance(effect, Ended)] == [Reason.ITERATION_TOO_LONG]


def test_what_began_within_a_pause_has_its_whole_time(serve):
    server = serve("ssp", 0, lease_seconds=10.0)
    server.offer()
    reader = server.send(Pull(min_version=9, wait_seconds=5.0))
    server.now += 50.0
    late = server.send(Pull(min_version=9, wait_seconds=5.0))
    server.now += 50.0
    server.step(Paused(100.0))
    server.tick(4.9)
    assert reader not in server.replies
    server.tick(0.1)
    assert isinstance(server.replies[reader], NotYet)
    assert isinstance(server.replies[late], NotYet)


def test_a_lease_runs_from_the_moment_at_which_the_asker_is_gone(serve):
    server = serve("async", lease_seconds=10.0)
    w0 = server.join("w0")
    pull = server.send(Pull(life=w0, wait_seconds=300.0))
    assert server.tick(100.0) == []
    server.step(Gone(pull))
    assert server.tick(9.9) == []
    assert [effect.reason for effect in server.tick(0.1) if isinstance(effect, Ended)] == [Reason.LEASE_EXPIRED]


def test_a_push_can_be_judged_before_its_tensors_are_looked_at(serve):
    server = serve()
    server.offer()
    w0 = server.join("w0")
    server.pull(w0)
    push = Push(w0, 0, 1, UpdateKind.GRADIENT, 4)
    assert isinstance(server.machine.judge(push), Fresh)
    assert isinstance(server.machine.judge(push), Fresh)


def test_the_body_of_a_push_that_is_not_used_is_dropped(serve):
    server = serve()
    server.offer()
    w0 = server.join("w0")
    effects = server.step(Asked(90, Push(w0, 0, 1, UpdateKind.GRADIENT, 4)))
    assert [type(effect) for effect in effects] == [Drop, Answered]
    assert effects[0] == Drop((90,))


def test_a_staged_part_again_is_dropped(serve):
    server = serve()
    server.offer()
    w0 = server.join("w0")
    server.pull(w0)
    server.push(w0, parts=2)
    effects = server.step(Asked(91, Push(w0, 0, 1, UpdateKind.GRADIENT, 4, parts=2)))
    assert effects[0] == Drop((91,))
    assert server.replies[91].missing == (1,)


def test_a_repeat_is_dropped_and_told_the_same(serve):
    server = serve()
    server.offer()
    w0 = server.join("w0")
    server.walk(w0)
    told = server.push(w0, 0)
    assert (told.version, told.reason) == (2, Reason.REPEATED)


# Keys.


def test_a_key_belongs_to_the_first_group_that_matches():
    groups = (GroupSettings(name="x", keys=("a*", "w?")), GroupSettings(name="y", keys=("*1",)))
    machine = Machine(Settings(groups), 1)
    assert [machine.group_of(key) for key in ("a1", "w7", "b1", "b2", "W7")] == ["x", "x", "y", None, None]


def test_a_key_that_a_group_names_in_full_is_of_that_group_whatever_characters_it_has():
    groups = (GroupSettings(name="x", keys=("w[0]", "v?")), GroupSettings(name="y", keys=("*", "v[!a]", "w0")))
    machine = Machine(Settings(groups), 1)
    found = [machine.group_of(key) for key in ("w[0]", "w0", "v?", "v1", "v[!a]", "vb")]
    assert found == ["x", "y", "x", "x", "y", "x"]


def test_an_offer_is_answered_when_all_its_groups_have_it(serve):
    server = serve(groups=GROUPS)
    server.holding = True
    request = server.send(Offer((spec("a.w"), spec("b.w"), spec("a.v"))))
    assert len(server.coming) == 2
    server.step(server.coming.pop())
    assert request not in server.replies
    effects = server.step(server.coming.pop())
    assert effects[0] == Drop((request,))
    assert server.replies[request] == Offered(("a.w", "a.v", "b.w"), ())


def test_an_offer_is_judged_key_by_key(serve):
    server = serve()
    assert server.ask(Offer((spec("w"), spec("b")), ask=True)) == Offered((), (), ("w", "b"))
    assert server.offer("w") == Offered(("w",), ())
    assert server.offer("w", "b") == Offered(("b",), ("w",))
    assert server.offer("w", "b") == Offered((), ("w", "b"))


@pytest.mark.parametrize("wrong", [spec("w", 5), spec("w", kind=Kind.FLOAT_BUFFER)])
def test_a_known_key_with_another_shape_or_kind_stores_nothing(serve, wrong):
    server = serve()
    server.offer("w")
    assert code(server.ask(Offer((spec("c"), wrong)))) is Code.SCHEMA_CONFLICT
    assert code(server.ask(Offer((wrong,), ask=True))) is Code.SCHEMA_CONFLICT
    assert list(server.machine.groups["default"].specs) == ["w"]


def test_after_the_first_accepted_update_the_keys_are_fixed(serve):
    server = serve("sync", workers=1)
    server.offer("w")
    w0 = server.join("w0")
    server.pull(w0)
    assert server.offer("b").stored == ("b",)
    server.push(w0)
    assert code(server.offer("c")) is Code.SCHEMA_CLOSED
    assert server.offer("w", "b").kept == ("w", "b")


def test_a_key_of_no_group(serve):
    server = serve(groups=GROUPS)
    assert code(server.ask(Offer((spec("a.w"), spec("c.w"))))) is Code.UNKNOWN_TENSOR
    assert not any(isinstance(effect, Initialize) for effect in server.step(Asked(90, Offer((spec("c.w"),)))))


# The rest.


def test_readers_are_asked_nothing(serve):
    server = serve(groups=GROUPS)
    assert code(server.ask(Pull(group="c"))) is Code.UNKNOWN_GROUP
    assert server.ask(Pull(group="a")).reason is Reason.NO_PARAMETERS


def test_barriers_are_met_by_workers(serve):
    server = serve()
    assert server.ask(Barrier(server.join("w0"), "b", 0)) == Passed("b", 0)


def test_the_policy_of_a_group_that_is_not_there(serve):
    assert code(serve(groups=GROUPS).ask(SetPolicy(PolicyTerms("async")))) is Code.UNKNOWN_GROUP


def test_the_run_is_finished_once_when_every_group_is(serve):
    server = serve(groups=GROUPS, until=1)
    server.offer("a.w", "b.w")
    w0 = server.join("w0")
    finished = []
    for request, (group, in_round) in enumerate((("a", None), ("b", 0)), start=90):
        server.pull(w0, group=group)
        effects = server.step(Asked(request, Push(w0, 0, 1, UpdateKind.GRADIENT, 4, group, round=in_round)))
        finished.append(Finished() in effects)
    assert finished == [False, True]
    assert Finished() not in server.tick(1.0)


def test_at_the_stop_all_are_told_and_none_is_taken(serve):
    server = serve("ssp", 0, workers=2)
    server.offer()
    w0, w1 = server.join("w0"), server.join("w1")
    server.walk(w0)
    parked = [
        server.send(Pull(life=w0, clock=1, wait_seconds=9)),
        server.send(Barrier(w1, "b", 0, wait_seconds=9)),
        server.send(Pull(min_version=9, wait_seconds=9)),
    ]
    server.step(Stop())
    assert [code(server.replies[request]) for request in parked] == [Code.STOPPING] * 3
    push = Push(w1, 0, 1, UpdateKind.GRADIENT, 4)
    for request, message in enumerate((Heartbeat(w0), Join("w2", "s"), push, Offer((spec("b"),))), start=70):
        effects = server.step(Asked(request, message))
        assert (Drop((request,)) in effects) == isinstance(message, (Push, Offer))
        assert code(server.replies[request]) is Code.STOPPING


def test_the_pull_with_a_push_that_is_being_applied_does_not_begin_to_wait_at_the_stop(serve):
    server = serve("ssp", 0, workers=2)
    server.offer()
    w0, _ = server.join("w0"), server.join("w1")
    server.pull(w0)
    server.holding = True
    asked = server.requests + 1
    server.push(w0, pull=True)
    server.step(Stop())
    server.publish()
    assert server.replies[asked].pushed.version == 2
    assert code(server.replies[asked].pulled) is Code.STOPPING
