from __future__ import annotations

import pytest

from leeway.protocol.pushes import UpdateKind
from leeway.ps.core.effects import Contribution
from leeway.ps.core.rounds import Held, Rounds, RoundState

SKIP = Held(UpdateKind.SKIP, 0, ())


def held(*bodies: int, samples: int = 4, kind: UpdateKind = UpdateKind.GRADIENT) -> Held:
    return Held(kind, samples, bodies)


@pytest.fixture
def rounds() -> Rounds:
    rounds = Rounds(3)
    rounds.open(["w10", "w2"])
    return rounds


def test_a_round_goes_from_waiting_to_open_to_applying_to_the_next(rounds):
    rounds.contribute("w2", held(1), 0.0)
    assert not rounds.complete
    rounds.contribute("w10", held(2), 0.0)
    assert rounds.complete
    rounds.close()
    assert (rounds.state, rounds.number, rounds.complete) == (RoundState.APPLYING, 3, False)
    rounds.finish()
    assert (rounds.state, rounds.number) == (RoundState.WAITING, 4)


def test_a_joiner_enters_the_round_that_is_not_open_yet(rounds):
    assert Rounds(3).next_number == 3
    assert rounds.next_number == 4
    rounds.contribute("w2", held(1), 0.0)
    rounds.contribute("w10", held(2), 0.0)
    rounds.close()
    assert rounds.next_number == 4


def test_updates_come_in_natural_rank_order_without_the_skips(rounds):
    rounds.remove("w10")
    rounds.contribute("w2", held(5, 6), 0.0)
    assert rounds.close() == (Contribution("w2", 4, (5, 6)),)

    rounds = Rounds()
    rounds.open(["w10", "w9", "w2"])
    rounds.contribute("w10", held(1), 0.0)
    rounds.contribute("w9", SKIP, 0.0)
    rounds.contribute("w2", held(2, samples=8), 0.0)
    assert rounds.close() == (Contribution("w2", 8, (2,)), Contribution("w10", 4, (1,)))


def test_a_round_of_skips_is_over_at_once(rounds):
    rounds.contribute("w2", SKIP, 0.0)
    rounds.contribute("w10", SKIP, 0.0)
    assert rounds.close() == ()
    assert (rounds.state, rounds.number) == (RoundState.WAITING, 4)


def test_the_one_who_left_is_not_waited_for_and_a_contribution_stays(rounds):
    rounds.contribute("w2", held(1), 0.0)
    rounds.remove("w2")
    rounds.remove("w10")
    assert rounds.complete
    assert rounds.members == ["w2"]


def test_members_are_those_who_have_contributed_and_those_who_are_missing(rounds):
    rounds.contribute("w10", held(1), 0.0)
    assert rounds.members == ["w2", "w10"]
    assert rounds.missing == {"w2"}


def test_the_first_update_says_what_is_gathered(rounds):
    assert rounds.kind is None
    rounds.contribute("w2", SKIP, 0.0)
    assert rounds.kind is None
    rounds.contribute("w10", held(1, kind=UpdateKind.DELTA), 0.0)
    assert rounds.kind is UpdateKind.DELTA


def test_a_round_goes_on_from_what_was_saved():
    rounds = Rounds(7)
    rounds.reopen(["w1"], {"w0": held(1)}, 0.0)
    assert (rounds.state, rounds.missing, rounds.members) == (RoundState.OPEN, {"w1"}, ["w0", "w1"])


def test_our_own_mistakes_are_caught(rounds):
    with pytest.raises(AssertionError):
        rounds.open(["w3"])
    with pytest.raises(AssertionError, match="without members"):
        Rounds().open([])
    for action in (lambda: Rounds().contribute("w0", SKIP, 0.0), Rounds().close, rounds.finish):
        with pytest.raises(AssertionError):
            action()
