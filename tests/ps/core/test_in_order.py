"""Lives in natural order, whatever comes and goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.protocol.ranks import natural
from leeway.ps.core.in_order import InOrder
from leeway.ps.core.lives import Incarnation, Seat


def life(rank, number=1):
    return Incarnation(rank, number, (Seat("s", 0.0),))


@given(st.lists(st.tuples(st.sampled_from(["w1", "w2", "w10", "a", "01", "1", "w01"]), st.booleans())))
def test_they_are_as_if_sorted_anew(changes):
    order, known = InOrder(), {}
    for number, (rank, comes) in enumerate(changes, start=1):
        before = order.lives
        seen = list(before)
        if comes:
            known[rank] = life(rank, number)
            order.put(known[rank])
        elif rank in known:
            order.remove(known.pop(rank))
        assert before == seen, "whoever goes through them sees them as they were"
        assert order.lives == sorted(known.values(), key=lambda one: natural(one.rank))
        assert [order.place(one.rank) for one in order.lives] == list(range(len(known)))


def test_only_who_is_there_can_go():
    order = InOrder()
    order.put(life("w0"))
    with pytest.raises(AssertionError):
        order.remove(life("w0"))


def test_a_join_among_thousands_looks_at_few(monkeypatch, serve):
    """It was ten milliseconds of sorting for each of ten thousand."""
    looks = []
    monkeypatch.setattr("leeway.ps.core.in_order.natural", lambda rank: looks.append(rank) or natural(rank))
    server = serve("async", workers=1)
    for index in range(500):
        server.join(f"w{index}")
    looks.clear()
    server.join("another")
    assert len(looks) < 20
