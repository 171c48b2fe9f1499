"""The push of a replica: each stage brings its part, and all are told what became of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Leave
from leeway.protocol.pulls import Granted
from leeway.protocol.pushes import Disposition, Pushed, PushPulled, Staged, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.ps.core.effects import Accepted, Apply, Contribution, Drop, Parked
from leeway.ps.core.events import Gone, Paused, Stop
from tests.ps.core.conftest import code


@pytest.fixture
def server(serve):
    server = serve("async", lease_seconds=1000.0)
    server.offer("w", "b")
    return server


@pytest.fixture
def lives(server):
    """A replica of two stages that computes."""
    lives = server.replica()
    for life in lives:
        server.pull(life)
    return lives


def part(server, life, clock=0, **more) -> int:
    """A stage pushes: the number of its request."""
    server.push(life, clock, **more)
    return server.requests


def test_the_parts_are_committed_together_in_the_order_of_the_stages(server, lives):
    second = part(server, lives[1])
    why = "the push of iteration 0 of r0#1 waits for the parts of stages 0"
    assert server.effects == [Parked(second, "default", "r0", 1, Reason.WAITING_FOR_STAGES, why, (), 1)]
    first = part(server, lives[0])
    assert server.effects[:2] == [
        Accepted(first, "default", "r0", 0, None, Reason.ON_ARRIVAL, 4),
        Apply("default", 2, UpdateKind.GRADIENT, (Contribution("r0", 4, (first, second)),), False, 1),
    ]
    applied = Pushed(0, Disposition.APPLIED, Reason.ON_ARRIVAL, 2, 0)
    assert server.replies[first] == server.replies[second] == applied
    assert server.machine.membership.committed("r0") == {"default": 1}


def test_who_does_not_wait_is_told_what_is_missing(server, lives):
    assert server.push(lives[1], wait_seconds=None) == Staged(0, (0,))
    part(server, lives[0])
    assert server.push(lives[1]).reason is Reason.REPEATED


def test_a_part_once_more_waits_in_place_of_the_one_before(server, lives):
    older, newer = part(server, lives[1]), part(server, lives[1])
    assert server.replies[older] == Staged(0, (0,))
    assert Drop((newer,)) in server.effects
    part(server, lives[0])
    assert server.replies[newer].disposition is Disposition.APPLIED
    assert server.replies[newer].reason is Reason.ON_ARRIVAL


def test_a_wait_ends_and_the_part_stays(server, lives):
    request = part(server, lives[1], wait_seconds=5.0)
    server.tick(4.9)
    assert request not in server.replies
    server.tick(0.1)
    assert server.replies[request] == Staged(0, (0,))
    assert server.push(lives[0]).version == 2


def test_a_pause_is_part_of_no_wait(server, lives):
    request = part(server, lives[1], wait_seconds=5.0)
    server.now += 60.0
    server.step(Paused(60.0))
    server.tick(4.9)
    assert request not in server.replies
    server.tick(0.1)
    assert request in server.replies


def test_whose_connection_is_gone_is_not_told(server, lives):
    request = part(server, lives[1])
    server.step(Gone(request))
    assert server.push(lives[0]).version == 2
    assert request not in server.replies


def test_behind_the_stop_no_part_waits(server, lives):
    request = part(server, lives[1])
    server.step(Stop())
    assert code(server.replies[request]) is Code.STOPPING


def test_the_end_of_the_life_takes_the_parts_with_it(server, lives):
    request = part(server, lives[1])
    server.ask(Leave(lives[0]))
    assert Drop((request,)) in server.effects
    assert code(server.replies[request]) is Code.STAGE_LOST
    assert server.machine.membership.committed("r0") == {}


def test_all_are_told_while_it_is_applied(server, lives):
    server.holding = True
    requests = [part(server, lives[1]), part(server, lives[0]), part(server, lives[1])]
    assert not any(request in server.replies for request in requests)
    server.publish()
    told = [server.replies[request].reason for request in requests]
    assert told == [Reason.ON_ARRIVAL, Reason.ON_ARRIVAL, Reason.REPEATED]


def test_each_goes_on_to_its_pull(server, lives):
    request = part(server, lives[1], pull=True)
    both = server.push(lives[0], pull=True)
    assert isinstance(both, PushPulled)
    other = server.replies[request]
    assert both.pulled.version == other.pulled.version
    assert isinstance(other.pulled, Granted)


@pytest.mark.parametrize("skipping", [0, 1])
def test_a_skip_by_one_stage_is_that_of_all(server, lives, skipping):
    waits = part(server, lives[1 - skipping])
    pushed = server.push(lives[skipping], kind=UpdateKind.SKIP)
    assert pushed == server.replies[waits] == Pushed(0, Disposition.SKIPPED, Reason.SKIPPED)
    assert server.machine.groups["default"].published == 1
    assert server.machine.membership.committed("r0") == {"default": 1}


def test_whose_part_comes_behind_the_skip_of_another_is_told_of_it(server, lives):
    server.push(lives[0], kind=UpdateKind.SKIP)
    request = part(server, lives[1], 0, version=1)
    assert server.replies[request] == Pushed(0, Disposition.SKIPPED, Reason.REPEATED)
    assert Drop((request,)) in server.effects


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"part": 0}, "stage 1 of r0#1 pushes part 1 of 2, and not part 0 of 2"),
        ({"part": 1, "parts": 3}, "stage 1 of r0#1 pushes part 1 of 2, and not part 1 of 3"),
        ({"part": 0, "parts": 1}, "stage 1 of r0#1 pushes part 1 of 2, and not part 0 of 1"),
    ],
)
def test_a_stage_pushes_its_own_part(server, lives, wrong, words):
    request = part(server, lives[1], **wrong)
    refused = server.replies[request]
    assert (code(refused), refused.error.detail) == (Code.INCONSISTENT_PARTS, words)
    assert Drop((request,)) in server.effects


def test_a_request_names_its_stage(server, lives):
    nameless = replace(lives[0], stage=None)
    request = part(server, nameless, part=0, parts=2)
    assert code(server.replies[request]) is Code.INVALID_VALUE
    assert Drop((request,)) in server.effects
    assert code(server.pull(nameless)) is Code.INVALID_VALUE


@pytest.fixture
def owners(server):
    """Two stages, each with a tensor of its own beside the one that both pull."""
    server.sit(0, keys=("w", "b"), owned=("w",))
    server.sit(1, keys=("w", "b"), owned=("b",))
    lives = [Life("r0", 1, 1, stage) for stage in range(2)]
    for life in lives:
        server.pull(life)
    return lives


def test_a_tensor_is_pushed_by_its_owner(server, owners):
    request = part(server, owners[1], keys=("b", "w"))
    refused = server.replies[request]
    assert (code(refused), refused.error.facts["tensor"]) == (Code.UNKNOWN_TENSOR, "w")
    assert refused.error.detail == (
        "tensor 'w' is not among those that stage 1 of r0#1 owns; the stage that owns it pushes the sum"
    )
    part(server, owners[1], keys=("b",))
    assert server.push(owners[0], keys=("w",)).version == 2


def test_a_stage_pulls_its_keys(server, owners):
    machine = server.machine
    assert machine.keys_of(owners[1]) == ("w", "b")
    assert machine.keys_of(server.replica(rank="r1")[0]) is None
    assert machine.keys_of(server.join("w0")) is None
    assert machine.keys_of(replace(owners[0], incarnation=9)) is None
    assert machine.keys_of(None) is None


def test_of_a_round_all_are_told_that_it_is_held(serve):
    server = serve("sync", workers=2, lease_seconds=1000.0)
    server.offer()
    w0 = server.join("w0")
    lives = server.replica()
    for life in (w0, *lives):
        server.pull(life)
    request = part(server, lives[1])
    held = Pushed(0, Disposition.HELD, Reason.IN_ROUND)
    assert server.push(lives[0]) == server.replies[request] == held
    server.push(w0)
    assert server.machine.groups["default"].published == 2
