"""What holds under every policy before the policy is asked."""

from __future__ import annotations

import pytest

from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.versions import Version


@pytest.fixture
def two(serve):
    server = serve("ssp", 1)
    server.offer()
    return server, server.join("w0"), server.join("w1")


def test_a_reader_gets_the_newest_version_under_any_policy(two):
    server, w0, _ = two
    server.walk(w0)
    reply = server.ask(Pull())
    assert reply == Granted(Version(1, 2), Reason.READER, count=2)


def test_what_is_held_already_is_not_sent_again(two):
    server, w0, _ = two
    held = server.ask(Pull(life=w0, clock=0)).version
    again = server.ask(Pull(life=w0, clock=0, since=held))
    assert (again.version, again.unchanged) == (held, True)


def test_a_version_that_is_not_out_is_waited_for(two):
    server, _, _ = two
    reply = server.ask(Pull(min_version=9))
    assert reply == NotYet(Reason.MIN_VERSION, "version 9 is not out, the newest is 1")


def test_every_answer_may_be_pushed_from(two):
    server, w0, w1 = two
    server.ask(Pull(life=w0, clock=0))
    server.walk(w1)
    later = server.ask(Pull(life=w0, clock=0))
    progress = server.machine.membership.of_rank("w0").groups["default"]
    assert list(progress.grants) == [(1, None), (later.version.number, None)]
    assert str(server.push(w0, version=1, kind=UpdateKind.GRADIENT)).startswith("applied @0")
