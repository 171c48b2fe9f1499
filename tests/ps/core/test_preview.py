"""What a switch would do is what it does, and asking for it changes nothing."""

import itertools
import re

import pytest

from leeway.protocol import limits
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted
from leeway.protocol.tuning import SetPolicy
from leeway.ps.core.saved import save
from leeway.ps.core.settings import GroupSettings

SSP = PolicyTerms("ssp", 2)
SYNC = PolicyTerms("sync")
ASYNC = PolicyTerms("async")
SWITCHES = list(itertools.permutations((SSP, SYNC, ASYNC, PolicyTerms("ssp", 0)), 2))


def quorum(number, grace=5.0):
    return PolicyTerms("sync", quorum=number, grace_seconds=grace)


def looked(server, terms):
    """The preview, and that nothing has changed by it."""
    before, _ = save(server.machine)
    told = server.machine.groups["default"].preview(terms)
    after, _ = save(server.machine)
    assert before == after
    return told


def ahead(serve, terms=SSP, clocks=(3, 3, 0)):
    """Workers w0, w1, ... at these clocks, all but the last one with a pull of the next iteration."""
    server = serve(groups=(GroupSettings(terms),), workers=len(clocks))
    server.offer()
    lives = [server.join(f"w{number}") for number in range(len(clocks))]
    for life, clock in zip(lives, clocks, strict=True):
        for number in range(clock):
            server.walk(life, number)
    for life, clock in list(zip(lives, clocks, strict=True))[:-1]:
        server.pull(life, clock)
    return server, lives


def test_who_waits_is_let_go(serve):
    server, _ = ahead(serve)
    told = looked(server, PolicyTerms("ssp", 3))
    assert (told.let_go, told.will_wait, told.waiting_for) == (["w0", "w1"], [], [])
    assert looked(server, ASYNC).let_go == ["w0", "w1"]
    assert told.to_fields() == {
        "policy": {"group": "default", "mode": "ssp", "staleness": 3, "switching_at": None},
        "changes": True,
        "round": None,
        "held": 0,
        "needed": 0,
        "late": {"ranks": [], "count": 0},
        "let_go": {"ranks": ["w0", "w1"], "count": 2},
        "will_wait": {"ranks": [], "count": 0},
        "waiting_for": {"ranks": [], "count": 0},
    }


def test_who_computes_would_wait_at_its_next_pull(serve):
    server, lives = ahead(serve, PolicyTerms("ssp", 8))
    told = looked(server, PolicyTerms("ssp", 3))
    assert (told.let_go, told.will_wait, told.waiting_for) == ([], ["w0", "w1"], ["w2"])
    assert looked(server, PolicyTerms("ssp", 4)).will_wait == []
    # The slowest takes the minimum along: at the bound 0 it waits for nobody but those who are beside it.
    server.pull(lives[2])
    told = looked(server, PolicyTerms("ssp", 0))
    assert (told.will_wait, told.waiting_for) == (["w0", "w1"], ["w2"])
    both, _ = ahead(serve, ASYNC, (0, 0, 0))
    told = looked(both, PolicyTerms("ssp", 0))
    assert (told.will_wait, told.waiting_for) == (["w0", "w1"], ["w0", "w1", "w2"])


def test_what_is_in_force_changes_nothing(serve):
    server, _ = ahead(serve)
    assert not looked(server, SSP).changes
    server.ask(SetPolicy(SYNC))
    told = looked(server, SYNC)
    assert (told.changes, told.policy.switching_at) == (False, 3)


def test_towards_rounds_all_meet_at_a_clock(serve):
    server, lives = ahead(serve)
    told = looked(server, SYNC)
    assert told.policy.switching_at == 3
    assert (told.let_go, told.will_wait, told.waiting_for) == ([], ["w0", "w1"], ["w2"])
    assert server.ask(SetPolicy(SYNC)).switching_at == 3
    # And back again, from the way there.
    assert looked(server, ASYNC).let_go == ["w0", "w1"]
    assert looked(server, quorum(2)).policy.switching_at == 3
    server.pull(lives[2])
    assert looked(server, ASYNC).let_go == ["w0", "w1"]


def rounds(serve, terms=SYNC):
    """Round 0 of w0, w1 and w2: w0 has contributed and waits, w1 and w2 compute."""
    server, lives = ahead(serve, terms, (0, 0, 0))
    server.pull(lives[2])
    server.push(lives[0], pull=True)
    return server, lives


def test_away_from_rounds_the_open_one_closes_with_what_it_has(serve):
    server, _ = rounds(serve)
    told = looked(server, ASYNC)
    assert (told.round, told.held, told.needed, told.late) == (0, 1, 0, ())
    assert (told.let_go, told.will_wait) == (["w0"], [])
    told = looked(server, PolicyTerms("ssp", 0))
    assert (told.let_go, told.will_wait, told.waiting_for) == ([], ["w0", "w1", "w2"], ["w1", "w2"])


def test_between_policies_with_rounds_the_open_one_goes_on(serve):
    server, lives = rounds(serve)
    told = looked(server, quorum(2))
    assert (told.round, told.held, told.needed, told.late) == (0, 1, 1, ("w1", "w2"))
    assert looked(server, quorum(1)).needed == 0
    assert (looked(server, quorum(3)).needed, looked(server, quorum(3)).late) == (2, ())
    server, lives = rounds(serve, quorum(2, 0.0))
    server.push(lives[1], pull=True)
    told = looked(server, SYNC)
    assert (told.round, told.held, told.needed) == (1, 0, 2)
    assert told.waiting_for == ("w2",), "whom the quorum has left behind"


def test_between_rounds_there_is_none_to_go_on(serve):
    server, lives = rounds(serve)
    server.holding = True
    for life in lives[1:]:
        server.push(life, pull=True)
    told = looked(server, quorum(2))
    assert (told.changes, told.round, told.held) == (True, None, 0)
    told = looked(server, ASYNC)
    assert (told.round, told.let_go, told.will_wait) == (None, [], []), "they wait for the step, whatever the policy"


def test_what_is_refused_is_refused_before(serve):
    server = serve(groups=(GroupSettings(SYNC, needs_rounds=True, least_updates=3),))
    for terms in (ASYNC, quorum(2), PolicyTerms("ssp")):
        words = server.ask(SetPolicy(terms)).error.detail
        with pytest.raises(ValueError, match=re.escape(words)):
            looked(server, terms)


def test_a_list_is_no_longer_than_anybody_reads(serve):
    many = limits.MAX_NAMED_WAITERS + 5
    server, _ = ahead(serve, SSP, (*[3] * many, 0))
    let_go = looked(server, ASYNC).to_fields()["let_go"]
    assert (let_go["count"], len(let_go["ranks"])) == (many, limits.MAX_NAMED_WAITERS)


@pytest.mark.parametrize(("old", "new"), SWITCHES, ids=str)
@pytest.mark.parametrize("steps", range(0, 24, 3))
def test_what_it_says_comes_true(serve, old, new, steps):
    """Who is let go has its answer at once; who waits on has none."""
    server = serve(groups=(GroupSettings(old),), workers=3)
    server.offer()
    lives = [server.join(f"w{number}") for number in range(3)]
    waiting = {}
    for step in range(steps):
        life = lives[(step * step + step // 3) % 3]
        clock = server.machine.membership.find(life).groups["default"].clock
        if waiting.get(life.rank) in server.replies or life.rank not in waiting:
            server.push(life, clock)
            clock = server.machine.membership.find(life).groups["default"].clock
            server.pull(life, clock)
            waiting[life.rank] = server.requests
    parked = {rank: request for rank, request in waiting.items() if request not in server.replies}
    told = looked(server, new)
    state = server.ask(SetPolicy(new))
    assert told.policy == state
    answered = [rank for rank, request in sorted(parked.items()) if isinstance(server.replies.get(request), Granted)]
    assert answered == list(told.let_go)
    assert not set(answered) & set(told.will_wait)
    assert set(parked) - set(answered) <= set(told.will_wait)


def test_who_is_alone_waits_for_nobody(serve):
    server, [life] = ahead(serve, ASYNC, (4,))
    server.pull(life, 4)
    for terms in (PolicyTerms("ssp", 0), SYNC):
        told = looked(server, terms)
        assert (told.let_go, told.waiting_for) == ([], [])
    empty = serve()
    assert looked(empty, SYNC).policy.switching_at == 0
