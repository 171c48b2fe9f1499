"""Who is kept out: by an admin, or for updates that are too large."""

import json

import pytest

from leeway.protocol import limits
from leeway.protocol.codes import Code
from leeway.protocol.membership import Heartbeat, Join, Joined
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.quarantine import MAX_WHY, Quarantine, QuarantineState, Release
from leeway.protocol.reasons import Reason
from leeway.ps.core.describe import status
from leeway.ps.core.effects import Drop, Ended, Quarantined, Released
from leeway.ps.core.events import Asked
from leeway.ps.core.saved import restore, save
from leeway.ps.core.settings import GroupSettings
from tests.ps.core.conftest import code

LIMITED = (GroupSettings(PolicyTerms("async"), max_update_norm=10.0),)


def push(server, life, norm, clock=0, **more):
    server.pull(life, clock)
    server.requests += 1
    member = server.machine.membership.find(life)
    version = member.groups["default"].grants[-1][0] if member.groups["default"].grants else 1
    message = Push(life, clock, version, UpdateKind.GRADIENT, 4, **more)
    server.step(Asked(server.requests, message, norm))
    return server.replies.get(server.requests)


def test_an_admin_keeps_a_rank_out_and_lets_it_in(serve):
    server = serve()
    server.offer()
    life = server.join("w0")
    assert server.ask(Quarantine("w0", "it is mad")) == QuarantineState("w0", "it is mad")
    ended = next(effect for effect in server.effects if isinstance(effect, Ended))
    assert (ended.rank, ended.reason) == ("w0", Reason.QUARANTINED)
    assert Quarantined("w0", "it is mad") in server.effects
    for message in (Heartbeat(life), Pull(life=life), Join("w0", "another"), Join("w0", "w0-session")):
        refused = server.ask(message)
        assert code(refused) is Code.QUARANTINED
        assert "w0 is in quarantine: it is mad" in refused.error.detail
    assert status(server.machine, 0.0)["quarantine"] == [{"rank": "w0", "why": "it is mad"}]
    assert server.ask(Release("w0")) == QuarantineState("w0")
    assert server.effects == [Released("w0"), server.effects[-1]]
    assert isinstance(server.ask(Join("w0", "another")), Joined)
    assert status(server.machine, 0.0)["quarantined"] == 0


def test_whoever_is_not_there_is_not_let_out(serve):
    server = serve()
    assert server.ask(Release("w0")).error.detail == "w0 is not in quarantine; there is nobody"
    server.ask(Quarantine("w1", "x"))
    assert server.ask(Release("w0")).error.detail.endswith("there is w1")
    for number in range(2, 200):
        server.ask(Quarantine(f"w{number}", "x"))
    assert server.ask(Release("w0")).error.detail.endswith(f"w64 and {199 - limits.MAX_NAMED_WAITERS} others")


def test_more_than_there_can_be_ranks_are_not_remembered(serve, monkeypatch):
    monkeypatch.setattr(limits, "MAX_RANKS", 2)
    server = serve()
    for rank in ("w0", "w1", "w1"):
        assert isinstance(server.ask(Quarantine(rank, "x")), QuarantineState)
    assert code(server.ask(Quarantine("w2", "x"))) is Code.BUSY


def test_too_large_updates_in_a_row_keep_their_rank_out(serve):
    server = serve(groups=LIMITED)
    server.offer()
    life = server.join("w0")
    assert push(server, life, 1.0).disposition == "applied"
    for count in (1, 2):
        refused = push(server, life, 11.0, clock=1)
        assert code(refused) is Code.UPDATE_TOO_LARGE
        assert refused.error.facts == {"refused": count, "quarantine_after": 3}
        assert refused.error.detail == "its norm is 11, and at most 10 is taken"
        assert Drop((server.requests,)) in server.effects
    assert code(push(server, life, 11.0, clock=1)) is Code.QUARANTINED
    assert server.machine.quarantines.why == {
        "w0": "3 updates in a row were refused; of the last one its norm is 11, and at most 10 is taken"
    }


def test_one_that_is_accepted_makes_good_and_a_new_life_does_not(serve):
    server = serve(groups=LIMITED)
    server.offer()
    life = server.join("w0")
    for clock in range(3):
        assert code(push(server, life, 11.0, clock)) is Code.UPDATE_TOO_LARGE
        assert push(server, life, 9.0, clock).disposition == "applied"
    for count in range(2):
        life = server.join("w0", f"session {count}")
        clock = server.machine.membership.find(life).groups["default"].clock
        assert code(push(server, life, 11.0, clock)) is Code.UPDATE_TOO_LARGE
    life = server.join("w0", "session 3")
    assert code(push(server, life, 11.0, clock)) is Code.QUARANTINED


def test_after_one(serve):
    server = serve(groups=LIMITED, quarantine_after=1)
    server.offer()
    assert code(push(server, server.join("w0"), 11.0)) is Code.QUARANTINED
    assert server.machine.quarantines.why["w0"] == "of an update its norm is 11, and at most 10 is taken"


def test_the_norm_is_that_of_all_parts(serve):
    server = serve(groups=LIMITED)
    server.offer("a", "b")
    life = server.join("w0")
    first = push(server, life, 8.0, part=0, parts=2, keys=("a",))
    assert first.missing == (1,)
    assert code(push(server, life, 8.0, part=1, parts=2, keys=("b",))) is Code.UPDATE_TOO_LARGE
    assert push(server, life, 5.0, part=1, parts=2, keys=("b",)).disposition == "applied"


def test_what_was_accepted_stays_and_its_round_goes_on_without_it(serve):
    server = serve("sync", workers=2)
    server.offer()
    w0, w1 = server.join("w0"), server.join("w1")
    for life in (w0, w1):
        server.pull(life)
    server.push(w0)
    server.ask(Quarantine("w1", "x"))
    assert server.machine.groups["default"].published == 2


def test_a_replica_goes_as_a_whole(serve):
    server = serve()
    server.offer()
    lives = server.replica()
    server.ask(Quarantine("r0", "x"))
    assert [code(server.ask(Heartbeat(life))) for life in lives] == [Code.QUARANTINED] * 2
    assert code(server.replies[server.sit(0)]) is Code.QUARANTINED
    assert not server.machine.joins.forming


def test_stages_that_wait_for_others_are_told(serve):
    server = serve()
    waiting = server.sit(0)
    server.ask(Quarantine("r0", "x"))
    assert code(server.replies[waiting]) is Code.QUARANTINED


def test_it_outlives_a_restart(serve):
    server = serve()
    server.join("w0")
    server.ask(Quarantine("w0", "x" * MAX_WHY))
    state, bodies = save(server.machine)
    server.machine = restore(server.machine.settings, json.loads(json.dumps(state)), bodies, 2, 0.0)
    assert code(server.ask(Join("w0", "new"))) is Code.QUARANTINED
    assert server.machine.quarantines.why == {"w0": "x" * MAX_WHY}
    del state["quarantine"]  # states of before there was one
    assert not restore(server.machine.settings, state, bodies, 2, 0.0).quarantines.why


@pytest.mark.parametrize(
    ("quarantine", "words"),
    [
        ({"..": "x"}, "in quarantine, and is no rank"),
        ({"w0": ""}, "must be text"),
        ({"w0": 1}, "must be text"),
        (1, "quarantine"),
    ],
)
def test_a_state_that_cannot_be_true(serve, quarantine, words):
    server = serve()
    state, bodies = save(server.machine)
    with pytest.raises(ValueError, match=words):
        restore(server.machine.settings, state | {"quarantine": quarantine}, bodies, 2, 0.0)
