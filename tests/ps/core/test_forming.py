from __future__ import annotations

from typing import Any

import pytest

from leeway.protocol.replicas import Place
from leeway.ps.core.forming import Forming, Gathered, difference, owned_twice
from leeway.ps.core.lives import Seat

PLAN = {"model": "mlp", "seed": "1"}


def seat(stage: int, **more: Any) -> Seat:
    return Seat(f"s{stage}", 10.0, Place(stage, 3, plan=PLAN, **more))


@pytest.fixture
def forming() -> Forming:
    """Stage 1 is there, stage 2 is expected."""
    return Forming(3, PLAN, "default", {1: seat(1)}, {2: seat(2)})


def test_who_is_expected_is_missing(forming):
    assert forming.missing == (0, 2)
    assert not forming.deserted


def test_without_anybody_it_is_deserted(forming):
    forming.seats.clear()
    assert not forming.deserted
    forming.expected.clear()
    assert forming.deserted


@pytest.mark.parametrize(
    ("place", "group", "words"),
    [
        (Place(0, 3, plan=PLAN), "default", None),
        (Place(0, 2, plan=PLAN), "default", "it is one of 2 stages, and the others are of 3"),
        (Place(0, 3, plan=PLAN | {"seed": "2"}), "default", "seed is 2, and 1 in the others"),
        (Place(0, 3, plan={"model": "mlp"}), "default", "seed is not given, and 1 in the others"),
        (Place(0, 3, plan=PLAN | {"cut": "1,2"}), "default", "cut is 1,2, and not given in the others"),
        (
            Place(0, 3, plan={"seed": "2", "model": "cnn"}),
            "default",
            "model is cnn, and mlp in the others; seed is 2, and 1 in the others",
        ),
        (Place(0, 3, plan=PLAN), "a", "group is a, and default in the others"),
    ],
)
def test_a_newcomer_fits_those_who_are_there_and_those_who_are_expected(forming, place, group, words):
    assert forming.difference(place, group) == words
    forming.seats.clear()
    assert forming.difference(place, group) == words
    assert forming.is_otherwise(place, group) == (words is not None)


def test_alone_it_may_be_otherwise(forming):
    forming.expected.clear()
    assert forming.difference(Place(1, 2, plan={}), "a") is None


def test_the_requests_of_a_stage(forming):
    for request, stage in ((7, 1), (8, 2), (9, 1)):
        forming.waiting[request] = Gathered(seat(stage), 1.0, 1.0)
    assert forming.requests_of(1) == [7, 9]
    assert forming.requests_of(0) == []


def test_who_is_alike_differs_in_nothing():
    assert difference(3, PLAN, Place(1, 3, plan=dict(PLAN))) is None


def test_a_key_has_one_owner():
    keys = ("a", "b", "c")
    others = [seat(0, keys=keys, owned=("a",)), seat(1, keys=keys, owned=("b",)), seat(2)]
    fits = Place(2, 3, keys=keys, owned=("c",))
    assert owned_twice(fits, others) is None
    assert owned_twice(Place(2, 3), others) is None
    words = owned_twice(Place(2, 3, keys=keys, owned=("c", "b")), others)
    assert words == "b is owned by stage 1, and stage 2 says that it owns it too"
    assert owned_twice(Place(1, 3, keys=keys, owned=("b",)), others) is None
