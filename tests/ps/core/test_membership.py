from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from leeway.protocol import limits
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.pushes import Disposition, LastPush
from leeway.protocol.reasons import Reason
from leeway.ps.core.membership import REMEMBERED_LIVES, Membership
from leeway.ps.core.progress import Progress, Record

if TYPE_CHECKING:
    from leeway.ps.core.lives import Incarnation


@pytest.fixture
def membership() -> Membership:
    return Membership(lease_seconds=10.0)


def begin(membership: Membership, rank: str, session: str, now: float = 0.0) -> Incarnation:
    return membership.begin(rank, (membership.new_seat(session, now),))


def lives(membership: Membership, rank: str, count: int) -> None:
    for number in range(count):
        old = membership.of_rank(rank)
        if old:
            membership.end(old, Reason.NEW_SESSION, "replaced")
        begin(membership, rank, f"s{number}")


def test_each_life_of_a_rank_counts_one_up(membership):
    lives(membership, "w0", 3)
    one = membership.of_rank("w0")
    assert (str(one), one.number, one.seats[0].session, one.ended) == ("w0#3", 3, "s2", None)


def test_one_life_of_a_rank_at_a_time(membership):
    begin(membership, "w0", "a", 0.0)
    with pytest.raises(AssertionError, match="w0#1 must end before"):
        begin(membership, "w0", "b", 0.0)


def test_only_the_live_one_can_end(membership):
    one = begin(membership, "w0", "a", 0.0)
    membership.end(one, Reason.LEFT, "w0#1 left")
    assert membership.of_rank("w0") is None
    with pytest.raises(AssertionError):
        membership.end(one, Reason.LEFT, "again")


def test_the_live_stand_in_natural_order(membership):
    for rank in ("w10", "w2", "a"):
        begin(membership, rank, "s")
    assert [one.rank for one in membership.live()] == ["a", "w2", "w10"]
    membership.end(membership.of_rank("w2"), Reason.LEFT, "left")
    assert [one.rank for one in membership.live()] == ["a", "w10"]


def test_lives_are_found_by_number_and_by_session_after_their_end_too(membership):
    lives(membership, "w0", 2)
    assert membership.find(Life("w0", 1, 1)).ended is Reason.NEW_SESSION
    assert membership.find(Life("w0", 1, 2)) is membership.of_rank("w0")
    assert membership.of_session("w0", "s0").number == 1
    assert membership.of_session("w0", "s1").number == 2
    assert membership.of_session("w0", "none") is None
    assert membership.find(Life("w1", 1, 1)) is None
    assert membership.of_rank("w1") is None


def test_the_memory_of_a_rank_is_bounded(membership):
    lives(membership, "w0", REMEMBERED_LIVES + 2)
    assert membership.of_session("w0", "s0") is None
    assert membership.of_session("w0", "s1") is not None
    assert membership.forgotten(Life("w0", 1, 1))
    assert not membership.forgotten(Life("w0", 1, 2))
    assert not membership.forgotten(Life("w0", 1, 99))
    assert not membership.forgotten(Life("w1", 1, 1))


def test_the_number_of_ranks_is_bounded(membership, monkeypatch):
    monkeypatch.setattr(limits, "MAX_RANKS", 1)
    one = begin(membership, "w0", "a", 0.0)
    assert membership.has_room("w0")
    assert not membership.has_room("w1")
    membership.end(one, Reason.LEFT, "left")
    assert begin(membership, "w0", "b", 0.0).number == 2


def test_a_lease_is_renewed_and_never_shortened(membership):
    one = begin(membership, "w0", "a", 5.0)
    assert one.seats[0].lease_until == 15.0
    membership.renew(one.seats[0], 7.0)
    membership.renew(one.seats[0], 6.0)
    assert one.seats[0].lease_until == 17.0
    assert membership.expired(16.9) == []
    assert membership.expired(17.0) == [(one, one.seats[0])]


def test_a_life_with_an_open_request_is_not_silent(membership):
    one = begin(membership, "w0", "a", 0.0)
    membership.asks(1, one.seats[0], 1.0)
    membership.asks(2, one.seats[0], 2.0)
    assert membership.expired(1000.0) == []
    membership.answered(1, 1000.0)
    membership.answered(1, 1001.0)
    assert membership.expired(2000.0) == []
    membership.answered(2, 2000.0)
    assert membership.expired(2009.9) == []
    assert membership.expired(2010.0) == [(one, one.seats[0])]


def test_a_pause_moves_a_lease_and_makes_it_no_longer_than_a_whole_one(membership):
    old = begin(membership, "w0", "a", 0.0)
    renewed = begin(membership, "w1", "a", 0.0)
    membership.renew(renewed.seats[0], 104.0)
    membership.paused(100.0, 105.0)
    assert membership.expired(109.9) == []
    assert membership.expired(110.0) == [(old, old.seats[0])]
    assert membership.expired(115.0) == [(old, old.seats[0]), (renewed, renewed.seats[0])]


@pytest.mark.parametrize("pauses", [1, 10, 1000])
def test_pauses_keep_the_dead_alive_for_their_own_time_and_no_longer(membership, pauses):
    one = begin(membership, "w0", "a", 0.0)
    now = 0.0
    for _ in range(pauses):
        now += 0.25
        membership.paused(0.25, now)
    assert membership.expired(now + 9.9) == []
    assert membership.expired(now + 10.0) == [(one, one.seats[0])]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.LEFT, Code.LEFT),
        (Reason.NEW_SESSION, Code.FENCED),
        (Reason.LEASE_EXPIRED, Code.EVICTED),
        (Reason.ITERATION_TOO_LONG, Code.EVICTED),
        (Reason.GRANT_LOST, Code.STAGE_LOST),
    ],
)
def test_an_ended_life_is_told_how_and_its_last_disposition(membership, reason, code):
    one = begin(membership, "w0", "a", 0.0)
    one.groups["quiet"] = Progress(0)
    one.groups["default"] = Progress(3, record=Record(2, 1, Reason.ON_ARRIVAL, Disposition.APPLIED))
    one.groups["late"] = Progress(2, record=Record(2, 1, Reason.ON_ARRIVAL))
    assert one.last_pushes() == {"default": LastPush(2, Disposition.APPLIED), "late": LastPush(2, None)}
    membership.end(one, reason, "so it was")
    error = one.refusal().error
    assert (error.code, error.detail) == (code, "so it was")
    assert error.facts["last"] == {
        "default": {"clock": 2, "disposition": "applied"},
        "late": {"clock": 2, "disposition": None},
    }


def test_a_live_one_has_no_refusal(membership):
    with pytest.raises(AssertionError):
        begin(membership, "w0", "a", 0.0).refusal()


def test_what_is_remembered_can_be_put_back(membership):
    lives(membership, "w0", 3)
    begin(membership, "w1", "x", 0.0)
    membership.accepted("w1", "default")
    membership.end(membership.of_rank("w1"), Reason.LEFT, "left")
    other = Membership(10.0)
    assert other.live() == []
    for rank, (count, ones) in membership.remembered().items():
        other.remember(rank, count, ones, membership.committed(rank))
    assert other.remembered() == membership.remembered()
    assert [one.rank for one in other.live()] == ["w0"]
    assert (other.committed("w1"), other.committed("w0"), other.committed("w2")) == ({"default": 1}, {}, {})
    assert begin(other, "w1", "y").number == 2
