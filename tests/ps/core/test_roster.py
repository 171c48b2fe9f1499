from __future__ import annotations

import pytest

from leeway.ps.core.lives import Incarnation, Seat
from leeway.ps.core.progress import Progress
from leeway.ps.core.roster import Roster


def member(rank: str, number: int = 1) -> Incarnation:
    return Incarnation(rank, number, (Seat("s", 10.0),))


@pytest.fixture
def roster() -> Roster:
    roster = Roster("default")
    for rank, clock in (("w2", 3), ("w10", 4), ("w1", 6)):
        roster.enter(member(rank), clock)
    return roster


def test_they_stand_in_natural_order(roster):
    assert roster.ranks() == ["w1", "w2", "w10"]
    assert [one.rank for one in roster] == ["w1", "w2", "w10"]
    assert [roster.index_of(rank) for rank in roster.ranks()] == [0, 1, 2]
    assert len(roster) == 3


def test_who_is_here_is_told_by_the_life_not_by_the_rank(roster):
    assert roster.of_rank("w2") in roster
    assert member("w2", 2) not in roster
    assert roster.of_rank("w3") is None


def test_the_clocks_are_counted(roster):
    assert roster.progress("w10").clock == 4
    assert roster.behind(4) == ["w2"]
    assert roster.behind(6) == ["w2", "w10"]
    roster.go_on(roster.of_rank("w2"), roster.progress("w2").clock + 1)
    assert (roster.clocks.minimum, roster.clocks.maximum, len(roster.clocks)) == (4, 6, 3)


def test_the_slowest_are_those_at_the_minimum(roster):
    assert roster.slowest() == ("w2",)
    roster.go_on(roster.of_rank("w1"), roster.progress("w1").clock + 1)
    assert roster.slowest() == ("w2",)
    roster.go_on(roster.of_rank("w2"), roster.progress("w2").clock + 1)
    assert roster.slowest() == ("w2", "w10")
    roster.exit(roster.of_rank("w2"))
    assert roster.slowest() == ("w10",)
    roster.enter(member("w0"), 4)
    assert roster.slowest() == ("w0", "w10")


def test_who_leaves_keeps_the_progress(roster):
    one = roster.of_rank("w2")
    roster.exit(one)
    assert roster.ranks() == ["w1", "w10"]
    assert roster.index_of("w10") == 1
    assert roster.clocks.minimum == 4
    assert one.groups["default"].clock == 3


def test_one_enters_with_what_was_saved():
    roster, progress = Roster("default", 5), Progress(7, owed=3)
    roster.put(member("w0"), progress)
    assert roster.progress("w0") is progress
    assert roster.clocks.minimum == 7
