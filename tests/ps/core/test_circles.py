"""Circles of waiters over groups: when there is one, and whose pull is refused."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Join, Leave
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted, Pull
from leeway.protocol.pushes import Disposition, Push, PushPulled, UpdateKind
from leeway.protocol.refusals import Refused
from leeway.ps.core import circles
from leeway.ps.core.effects import PassedOver
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
    begun(server, lives, names)
    return server, lives


def begun(server, lives, names):
    """All have handed in their first iteration: none is a newcomer."""
    for name in names:
        for life in lives:
            walk(server, life, name, 0)


def walk(server, life, group, clock=1):
    server.pull(life, clock, group=group)
    server.push(life, clock, group=group)


def send_pull(server, life, group):
    return server.send(Pull(group, life, 2, wait_seconds=100.0))


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
    server.pull(w0, 2, group="D")
    server.pull(w1, 1, group="G")
    both = server.push(w1, 1, group="G", pull=True)
    assert both.pushed.clock == 1
    assert is_deadlock(both.pulled)


def test_whoever_leaves_lets_the_others_go_on(serve):
    server, (w0, w1) = started(serve, "DG", ("w0", "w1"))
    walk(server, w0, "D")
    walk(server, w1, "G")
    waits = send_pull(server, w0, "D")
    assert is_deadlock(server.pull(w1, 2, group="G"))
    server.ask(Leave(w1))
    assert isinstance(server.replies[waits], Granted)


def test_who_asks_for_several_things_at_once_closes_none(serve):
    server, (w0, w1) = started(serve, "DG", ("w0", "w1"), one_after_another=False)
    walk(server, w0, "D")
    walk(server, w1, "G")
    assert server.pull(w0, 2, group="D") is None
    assert server.pull(w1, 2, group="G") is None


def test_who_waits_for_a_version_alone_closes_none(serve):
    server, (w0, w1) = started(serve, "DG", ("w0", "w1"))
    walk(server, w0, "D")
    server.pull(w0, 2, group="D")
    assert server.pull(w1, 1, group="G", min_version=9) is None


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
        done = [name for name in names if (name, number) in pushed and server.machine.groups[name].rounds.number == 1]
        if not done:
            continue
        name = data.draw(st.sampled_from(done))
        missing = {group: list(server.machine.groups[group].rounds.missing) for group in names}
        reply = server.pull(lives[number], 2, group=name)
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
    begun(server, (w0, w1, w2), "DG")
    for clock in range(1, 4):
        walk(server, w0, "D", clock)
    walk(server, w1, "D")
    walk(server, w1, "G")
    walk(server, w2, "G")
    server.machine.groups["D"].set_policy(PolicyTerms("ssp", 0))
    ahead = server.send(Pull("D", w0, 4, wait_seconds=100.0))
    waits = send_pull(server, w1, "G")
    assert ahead not in server.replies
    assert waits not in server.replies
    walk(server, w2, "D")
    assert ahead not in server.replies
    assert is_deadlock(server.replies[waits])


# Newcomers.


def newcomer(server, rank):
    joined = server.ask(Join(rank, f"{rank}-session", None, one_after_another=True))
    return Life(rank, joined.epoch, joined.incarnation)


@pytest.mark.parametrize("terms", [SYNC, PolicyTerms("ssp", 0)], ids=str)
@pytest.mark.parametrize("parts", ["AB", "ABC"])
@pytest.mark.parametrize("between", range(3))
def test_who_joins_between_two_parts_is_late_once_and_in_step_from_then_on(serve, terms, parts, between):
    """All step their parts in the same order, each with the pull of the next iteration, as sessions do."""
    server = serve(groups=groups(*parts, terms=terms), workers=1)
    server.offer(*parts)
    workers = {"w0": Stepping(server, newcomer(server, "w0"), parts)}
    for _ in range(len(parts) + between):
        workers["w0"].go_on()
    workers["w1"] = Stepping(server, newcomer(server, "w1"), parts)
    for turn in range(400):
        workers[("w0", "w1", "w1")[turn % 3] if turn < 200 else ("w1", "w0")[turn % 2]].go_on()
    assert workers["w0"].late == 0
    assert workers["w1"].late <= len(parts)
    assert min(worker.steps for worker in workers.values()) >= 40
    clocks = {tuple(server.machine.groups[part].clock_of(rank) for rank in workers) for part in parts}
    assert all(abs(mine - other) <= 1 for mine, other in clocks)


class Stepping:
    """A worker that pulls all its parts first, and then steps one after another."""

    def __init__(self, server, life, parts):
        self.server, self.life, self.parts = server, life, parts
        self.clock = {part: server.machine.membership.find(life).groups[part].clock for part in parts}
        self.turn, self.asked, self.steps, self.late = 0, None, 0, 0
        self.pulling, self.grant = list(parts), {}

    def go_on(self):
        """Ask for the next thing, unless the last one is not answered."""
        if self.asked is not None:
            reply = self.server.replies.get(self.asked)
            if reply is None:
                return
            assert not is_deadlock(reply), reply
            self.asked = None
            self.took(reply)
        if self.pulling:
            part = self.pulling[0]
            self.asked = self.server.send(Pull(part, self.life, self.clock[part], wait_seconds=1e6))
            return
        part = self.parts[self.turn % len(self.parts)]
        grants = self.server.machine.membership.find(self.life).groups[part].grants
        version, in_round = grants[-1] if grants else self.grant[part]
        push = Push(self.life, self.clock[part], version, UpdateKind.GRADIENT, 4, part, round=in_round, pull=True)
        self.asked = self.server.send(replace(push, wait_seconds=1e6))

    def took(self, reply):
        granted = reply.pulled if isinstance(reply, PushPulled) else reply
        assert isinstance(granted, Granted), reply
        if isinstance(reply, PushPulled):
            part = self.parts[self.turn % len(self.parts)]
            self.turn += 1
            self.steps += 1
            self.late += reply.pushed.disposition is Disposition.LATE
        else:
            part = self.pulling.pop(0)
        self.clock[part] = granted.clock
        self.grant[part] = granted.version.number, granted.round


def test_how_it_reads():
    assert str(PassedOver("G", "w1", 3)) == "passed over in G: w1, until 3"
