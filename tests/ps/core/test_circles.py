"""Circles of waiters over groups: when there is one, and whose pull is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Join, Leave
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted, Pull
from leeway.protocol.refusals import Refused
from leeway.ps.core import circles
from leeway.ps.core.settings import GroupSettings, Settings
from tests.ps.core.conftest import Server

SYNC = PolicyTerms("sync")


def groups(*names, terms=SYNC):
    return tuple(GroupSettings(terms, name, (f"{name}*",)) for name in names)


def started(serve, names, ranks, *, terms=SYNC, one_after_another=True):
    server = serve(groups=groups(*names, terms=terms), workers=len(ranks))
    server.offer(*names)
    lives = []
    for rank in ranks:
        joined = server.ask(Join(rank, f"{rank}-session", None, one_after_another=one_after_another))
        lives.append(Life(rank, joined.epoch, joined.incarnation))
    return server, lives


def walk(server, life, group, clock=0):
    server.pull(life, clock, group=group)
    server.push(life, clock, group=group)


def send_pull(server, life, group):
    return server.send(Pull(group, life, 1, wait_seconds=100.0))


def is_deadlock(reply):
    return isinstance(reply, Refused) and reply.error.code is Code.DEADLOCK


@pytest.mark.parametrize("length", [2, 3, 5])
def test_a_circle_of_any_length(serve, length):
    names = [f"g{number}" for number in range(length)]
    ranks = [f"w{number}" for number in range(length)]
    server, lives = started(serve, names, ranks)
    # In group n everybody has pushed but the worker after n, who waits in the next group.
    for place, name in enumerate(names):
        for number, life in enumerate(lives):
            if number != (place + 1) % length:
                walk(server, life, name)
    asked = [send_pull(server, life, names[place]) for place, life in enumerate(lives)]
    replies = [server.replies.get(request) for request in asked]
    assert [is_deadlock(reply) for reply in replies] == [False] * (length - 1) + [True]
    assert all(rank in replies[-1].error.detail for rank in ranks)
    assert replies[-1].error.status == 409


def test_it_is_told_with_the_push_whose_pull_closed_it(serve):
    server, (w0, w1) = started(serve, "DG", ("w0", "w1"))
    walk(server, w0, "D")
    server.pull(w0, 1, group="D")
    server.pull(w1, 0, group="G")
    both = server.push(w1, 0, group="G", pull=True)
    assert both.pushed.clock == 0
    assert is_deadlock(both.pulled)


def test_whoever_leaves_lets_the_others_go_on(serve):
    server, (w0, w1) = started(serve, "DG", ("w0", "w1"))
    walk(server, w0, "D")
    walk(server, w1, "G")
    waits = send_pull(server, w0, "D")
    assert is_deadlock(server.pull(w1, 1, group="G"))
    server.ask(Leave(w1))
    assert isinstance(server.replies[waits], Granted)


def test_who_asks_for_several_things_at_once_closes_none(serve):
    server, (w0, w1) = started(serve, "DG", ("w0", "w1"), one_after_another=False)
    walk(server, w0, "D")
    walk(server, w1, "G")
    assert server.pull(w0, 1, group="D") is None
    assert server.pull(w1, 1, group="G") is None


def test_who_waits_for_a_version_alone_closes_none(serve):
    server, (w0, w1) = started(serve, "DG", ("w0", "w1"))
    walk(server, w0, "D")
    server.pull(w0, 1, group="D")
    assert server.pull(w1, 0, group="G", min_version=9) is None


def test_two_circles_that_one_switch_closes(serve):
    """Both are broken, each by the pull of its last rank."""
    quorum = PolicyTerms("sync", quorum=3, grace_seconds=1.0)
    server, lives = started(serve, "DG", ("w0", "w1", "w2", "w3", "w10"), terms=quorum)
    w0, w1, w2, w3, _ = lives
    for life in (w0, w1):
        walk(server, life, "D")
    for life in (w2, w3):
        walk(server, life, "G")
    asked = [send_pull(server, life, group) for life, group in ((w0, "D"), (w1, "D"), (w2, "G"), (w3, "G"))]
    assert not any(request in server.replies for request in asked)
    for name in "DG":
        server.machine.groups[name].set_policy(SYNC)
    server.tick(0.1)
    refused = [request in server.replies and is_deadlock(server.replies[request]) for request in asked]
    assert refused == [False, False, True, True]


# A dumb judge of the same: who waits for whom as a graph of workers, searched for a cycle path by path.


def has_cycle(parked, missing):
    """`parked`: rank -> group; `missing`: group -> ranks. Under `sync`, where all have to come."""
    edges = {
        rank: [other for other in missing[group] if other in parked and parked[other] != group]
        for rank, group in parked.items()
    }
    for length in range(2, len(parked) + 1):
        for path in itertools.permutations(parked, length):
            if all(after in edges[rank] for rank, after in zip(path, [*path[1:], path[0]], strict=True)):
                return True
    return False


@given(data=st.data())
def test_it_is_found_exactly_where_there_is_one(data):
    names, ranks = ("a", "b", "c"), ("w0", "w1", "w2", "w3")
    server = Server(Settings(groups=groups(*names), workers=len(ranks)))
    _, lives = started(lambda **_: server, names, ranks)
    pushed = data.draw(st.lists(st.sampled_from([(n, r) for n in names for r in range(4)]), unique=True, max_size=9))
    for name, number in pushed:
        walk(server, lives[number], name)
    parked = {}
    for number in data.draw(st.permutations(range(4))):
        done = [name for name in names if (name, number) in pushed and server.machine.groups[name].rounds.number == 0]
        if not done:
            continue
        name = data.draw(st.sampled_from(done))
        missing = {group: list(server.machine.groups[group].rounds.missing) for group in names}
        reply = server.pull(lives[number], 1, group=name)
        expected = has_cycle(parked | {ranks[number]: name}, missing)
        assert is_deadlock(reply) == expected
        if not expected:
            parked[ranks[number]] = name
        assert circles.find(server.machine.groups.values()) == []


def test_one_that_a_push_closes(serve):
    """Behind a switch to a smaller bound others become the slowest while who is ahead still waits."""
    sync_and_async = (*groups("D", terms=PolicyTerms("async")), *groups("G"))
    server = serve(groups=sync_and_async, workers=3)
    server.offer("D", "G")
    w0, w1, w2 = (
        Life(rank, 1, server.ask(Join(rank, f"{rank}-session", one_after_another=True)).incarnation)
        for rank in ("w0", "w1", "w2")
    )
    for clock in range(3):
        walk(server, w0, "D", clock)
    walk(server, w1, "D")
    walk(server, w1, "G")
    walk(server, w2, "G")
    server.machine.groups["D"].set_policy(PolicyTerms("ssp", 0))
    ahead = server.send(Pull("D", w0, 3, wait_seconds=100.0))
    waits = send_pull(server, w1, "G")
    assert ahead not in server.replies
    assert waits not in server.replies
    walk(server, w2, "D")
    assert ahead not in server.replies
    assert is_deadlock(server.replies[waits])
