"""Who is suspected of pushing the same as another."""

import pytest

from leeway.protocol.lives import Life
from leeway.protocol.pushes import Push, UpdateKind
from leeway.ps.watching.same_updates import FEWEST_ELEMENTS, REMEMBERED, SameUpdates, Twin

SUMS = (0.5, -2.0)


def push(rank, version=1, kind=UpdateKind.GRADIENT, clock=0):
    samples = 0 if kind is UpdateKind.SKIP else 8
    return Push(Life(rank, 7, 1), clock, version, kind, samples)


@pytest.fixture
def same():
    return SameUpdates()


def look(same, sent, sums=SUMS, begins=3, body=None, elements=FEWEST_ELEMENTS):
    return same.look(sent, elements, sums, begins, memoryview(bytes(600)) if body is None else body)


def test_one_of_another_rank_with_the_same_numbers(same):
    body = memoryview(bytes(600))
    assert look(same, push("w0"), body=body) is None
    assert look(same, push("w1")) == Twin("w0", body)


def test_its_body_is_not_kept(same):
    look(same, push("w0"), body=memoryview(bytes(600)))
    assert look(same, push("w1")) == Twin("w0", None)


@pytest.mark.parametrize(
    "other",
    [
        {"sent": push("w0")},
        {"sent": push("w1", version=2)},
        {"sent": push("w1", kind=UpdateKind.DELTA)},
        {"sent": push("w1"), "sums": (0.5, -2.5)},
        {"sent": push("w1"), "begins": 4},
        {"sent": push("w1"), "elements": FEWEST_ELEMENTS + 1},
    ],
    ids=["the same rank", "another version", "another kind", "another sum", "another beginning", "another size"],
)
def test_what_is_another(same, other):
    look(same, push("w0"))
    assert look(same, **other) is None


@pytest.mark.parametrize("sums", [(0.0, 0.0), (), (float("nan"), 1.0)], ids=["zero", "nobody has looked", "NaN"])
def test_numbers_that_say_nothing(same, sums):
    assert [look(same, push(rank), sums) for rank in ("w0", "w1")] == [None, None]


@pytest.mark.parametrize("kind", [UpdateKind.SKIP, UpdateKind.MODEL])
def test_kinds_that_say_nothing(same, kind):
    assert [look(same, push(rank, kind=kind)) for rank in ("w0", "w1")] == [None, None]


def test_it_is_said_once(same):
    look(same, push("w0"))
    assert look(same, push("w1"))
    assert same.tell()
    assert not same.tell()
    assert [look(same, push(rank)) for rank in ("w0", "w1")] == [None, None]


def test_what_is_remembered_is_bounded(same):
    for number in range(REMEMBERED + 1):
        look(same, push("w0", version=number))
    assert look(same, push("w1", version=0)) is None
    assert look(same, push("w2", version=REMEMBERED)) == Twin("w0", None)


def test_a_handful_of_numbers_may_be_the_same_by_chance(same):
    """The first step of Adam is the rate or minus the rate in each element."""
    look(same, push("w0"), elements=FEWEST_ELEMENTS - 1)
    assert look(same, push("w1"), elements=FEWEST_ELEMENTS - 1) is None
