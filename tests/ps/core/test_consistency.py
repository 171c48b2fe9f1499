"""What a machine saves is consistent, and whatever is changed in it so that it cannot be true is found."""

import copy
import json

import pytest

from leeway.protocol.barriers import Barrier
from leeway.protocol.membership import Leave
from leeway.protocol.offers import Offer
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.core.consistency import check
from leeway.ps.core.saved import restore, save


@pytest.fixture
def saved(serve):
    """A round with a held contribution and a skip, a member that is waited for, an older life, a barrier."""
    server = serve("sync", workers=3)
    server.offer("w", "b")
    gone, w0, w1 = server.join("w2"), server.join("w0"), server.join("w1")
    server.ask(Leave(gone))
    w2 = server.join("w2", "another session")
    for life in (w0, w1):
        server.walk(life)
    server.ask(Barrier(w0, "start", 0))
    for life in (w0, w1):
        server.pull(life, 1)
    server.push(w0, 1)
    server.push(w1, 1, kind=UpdateKind.SKIP)
    server.pull(w2, 1)
    state, bodies = save(server.machine)
    assert state["groups"]["default"]["missing"] == ["w2"]
    assert len(bodies) == 1
    return json.loads(json.dumps(state))


@pytest.fixture
def eager(serve):
    server = serve("ssp", 2)
    server.offer("w")
    server.walk(server.join("w0"))
    state, _ = save(server.machine)
    return json.loads(json.dumps(state))


GROUP = "groups.default."
W0, W1, W2 = (f"ranks.w{place}.lives.{-1}." for place in range(3))
IN_GROUP = "groups.default."

WRONG = [
    ("epoch", "7"),
    ("epoch", True),
    ("finished", 0),
    ("barriers", {"start": -1}),
    ("groups", []),
    ("ranks", None),
    (W0 + "one_after_another", "no"),
    (W0 + "revision", -1),
    (GROUP + "version", 0),
    (GROUP + "version", 1),
    (GROUP + "min_clock", 0),
    (GROUP + "mode", "snyc"),
    (GROUP + "whole", 1),
    (GROUP + "from_file", "no"),
    (GROUP + "staleness", 3),
    (GROUP + "started", "true"),
    (GROUP + "assembled", 1),
    (GROUP + "arrived", ["no rank"]),
    (GROUP + "arrived", [["w0"]]),
    (GROUP + "arrived", 7),
    (GROUP + "switching_at", 0),
    (GROUP + "specs", [["w", "float32", "trainable", [3]]] * 2),
    (GROUP + "specs", [["w", "float33", "trainable", [3]]]),
    (GROUP + "round", 2),
    (GROUP + "missing", ["w0"]),
    (GROUP + "missing", ["w7"]),
    (GROUP + "missing", None),
    (GROUP + "held.w0.bodies", [1]),
    (GROUP + "held.w0.bodies", []),
    (GROUP + "held.w0.samples", 0),
    (GROUP + "held.w0.kind", "skip"),
    (GROUP + "held.w1.samples", 3),
    (GROUP + "held", {"": {"kind": "gradient", "samples": 4, "bodies": [0]}}),
    ("ranks.w0.incarnations", 0),
    ("ranks.w2.lives.0.number", 2),
    ("ranks.w2.lives.0.ended", None),
    ("ranks.w2.lives.0.ended_detail", 7),
    ("ranks.w2.lives.0.ended", str(Reason.GRANTED)),
    ("ranks.w2.lives.0.session", "another session"),
    ("ranks.w2.lives.0.session", 7),
    (W0 + IN_GROUP + "clock", 1),
    (W0 + IN_GROUP + "clock", -1),
    (W0 + IN_GROUP + "owed", 9),
    (W0 + IN_GROUP + "record.clock", 0),
    (W0 + IN_GROUP + "record.parts", 0),
    (W0 + IN_GROUP + "record.reason", "none"),
    (W0 + IN_GROUP + "record.disposition", "applied"),
    (W0 + IN_GROUP + "record.version", 2),
    (W2 + IN_GROUP + "grants", [[2]]),
    (W2 + IN_GROUP + "grants", [[3, 1]]),
    (W2 + IN_GROUP + "grants", [[2, 0]]),
    (W2 + IN_GROUP + "grants", [["2", 1]]),
    (W2 + IN_GROUP + "grants", [2]),
]


def change(state, place, value):
    """A copy in which something at this place, as `a.b.0.c`, is another thing."""
    changed = copy.deepcopy(state)
    at = changed
    *path, last = place.split(".")
    for step in path:
        at = at[int(step)] if isinstance(at, list) else at[step]
    assert repr(at[last]) != repr(value), "that changes nothing"
    at[last] = value
    return changed


def test_what_is_saved_can_be_true(saved, eager):
    check(saved, 1)
    check(eager, 0)


@pytest.mark.parametrize(("place", "value"), WRONG, ids=lambda value: str(value)[:40])
def test_what_cannot_be_true_is_refused(saved, place, value):
    with pytest.raises(ValueError, match=r".+"):
        check(change(saved, place, value), 1)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (GROUP + "staleness", None),
        (GROUP + "staleness", -1),
        (W0 + IN_GROUP + "record.version", 3),
        (W0 + IN_GROUP + "record.staleness", None),
    ],
)
def test_of_an_eager_policy_too(eager, place, value):
    with pytest.raises(ValueError, match=r".+"):
        check(change(eager, place, value), 0)


def test_bodies_that_nobody_holds_and_those_that_are_not_there(saved):
    for bodies in (0, 2):
        with pytest.raises(ValueError, match=f"refer to the bodies .0., and there are {bodies}"):
            check(saved, bodies)


@pytest.mark.parametrize(("missing", "words"), [("ranks", "'ranks' is missing"), ("groups", "'groups' is missing")])
def test_what_is_missing_is_named(saved, missing, words):
    del saved[missing]
    with pytest.raises(ValueError, match=words):
        check(saved, 1)


@pytest.mark.parametrize(
    "place",
    [
        *(GROUP + name for name in ("staleness", "switching_at", "missing")),
        *(W0 + name for name in ("session", "ended", "ended_detail")),
        *(W0 + IN_GROUP + name for name in ("record", "record.version", "record.staleness")),
    ],
)
def test_what_may_be_null_has_to_be_there(saved, place):
    at = saved
    *path, last = place.split(".")
    for step in path:
        at = at[int(step)] if isinstance(at, list) else at[step]
    del at[last]
    with pytest.raises(ValueError, match=r"is missing|no words"):
        check(saved, 1)


def test_what_older_states_lack_may_be_null_too(serve, saved):
    for name in ("parts", "processes", "quarantine"):
        saved[name] = None
    for name in ("arrived", "assembled", "whole", "from_file"):
        saved["groups"]["default"][name] = None
    for rank in saved["ranks"].values():
        rank["committed"] = None
        for life in rank["lives"]:
            life["one_after_another"] = life["revision"] = None
    machine = restore(serve("sync", workers=3).machine.settings, saved, [1], 2, 0.0)
    assert machine.groups["default"].arrived == {"w0", "w1", "w2"}
    check(json.loads(json.dumps(save(machine)[0])), 1)


def test_a_rank_that_is_none_and_a_group_that_is_not_there(saved):
    with pytest.raises(ValueError, match="'no rank' is no rank"):
        check(saved | {"ranks": {"no rank": saved["ranks"]["w0"]}}, 1)
    lost = change(saved, "ranks.w2.lives.0.groups", {"head": {}})
    with pytest.raises(ValueError, match="a group 'head' that is not there"):
        check(lost, 1)


def test_it_is_asked_before_anything_is_restored(serve, saved):
    settings = serve("sync", workers=2).machine.settings
    restore(settings, saved, [1], epoch=2, now=0.0)
    with pytest.raises(ValueError, match="the min clock 0 is nobody's"):
        restore(settings, change(saved, GROUP + "min_clock", 0), [1], epoch=2, now=0.0)


def test_a_state_of_before_whole_offers_is_consistent_and_declares_nothing(saved):
    for group in saved["groups"].values():
        del group["whole"], group["from_file"]
    check(saved, 1)


def test_a_state_of_before_whole_offers_still_compares(serve):
    server = serve("async")
    server.offer("w", "b")
    state, bodies = save(server.machine)
    del state["groups"]["default"]["whole"], state["groups"]["default"]["from_file"]
    machine = restore(server.machine.settings, state, bodies, 2, 0.0)
    spec = next(iter(machine.groups["default"].specs.values()))
    refused = machine.judge_offer(Offer((spec,), whole=True))
    assert isinstance(refused, Refused)
    assert "lacks 1 key that the group has (b)" in refused.error.detail


# Replicas.


@pytest.fixture
def replicas(serve):
    """A replica in its second life, of a model whose tensors its stages have declared."""
    server = serve()
    w, b = (TensorSpec(name, (3,), "float32", Kind.TRAINABLE) for name in ("w", "b"))
    server.ask(Offer((w, b), ask=True, whole=True, spread=True))
    server.ask(Offer((w,)))
    server.replica()
    server.sit(1, session="newer")
    server.sit(0)
    state, _ = save(server.machine)
    return json.loads(json.dumps(state))


OLD, NEW = "ranks.r0.lives.0.", "ranks.r0.lives.1."


@pytest.mark.parametrize(("holds", "error"), [(None, None), ("7.4", None), (7, "'holds' is 7, it must be text")])
def test_which_values_a_group_has(replicas, holds, error):
    replicas["groups"]["default"]["holds"] = holds
    if error is None:
        check(replicas, 0)
    else:
        with pytest.raises(ValueError, match=error):
            check(replicas, 0)


def test_a_replica_can_be_true_and_its_stages_keep_their_ids_over_lives(replicas):
    assert replicas["ranks"]["r0"]["lives"][0]["session"] == replicas["ranks"]["r0"]["lives"][1]["session"]
    check(replicas, 0)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (OLD + "culprit", 2),
        (OLD + "culprit", -1),
        (OLD + "seats", None),
        (OLD + "seats", []),
        (NEW + "seats.0.place.stage", 1),
        (NEW + "seats.1.place.stages", 3),
        (NEW + "seats.0.place", {}),
        (NEW + "seats.0.session", 7),
        (NEW + "seats.0.session", ""),
        (NEW + "seats.1.left", 0),
        (NEW + "seats", 7),
        (NEW + "groups", {}),
        ("ranks.r0.committed", {"default": -1}),
        ("ranks.r0.committed", {"default": 1.5}),
        ("ranks.r0.committed", 3),
        ("processes", 7),
        ("processes", {"no rank": {"0": ["s"]}}),
        ("processes", {"r0": ["s"]}),
        ("processes.r0", {"first": ["s"]}),
        ("processes.r0", {"64": ["s"]}),
        ("processes.r0", {"0": "s"}),
        ("processes.r0", {"0": [7]}),
        ("processes.r0", {"0": ["s"] * 17}),
        (GROUP + "declared", [["v", "float32", "trainable", [3]]]),
        (GROUP + "declared", [["w", "float32", "trainable", [3]]]),
        (GROUP + "whole", True),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_replica_that_cannot_be_true_is_refused(replicas, place, value):
    with pytest.raises(ValueError, match=r".+"):
        check(change(replicas, place, value), 0)
