from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.protocol.ranks import is_rank, natural

ranks = st.text("abw.-_0123456789", min_size=1, max_size=8)


@pytest.mark.parametrize("text", ["0", "w10", "node-3.gpu_1", "x" * 64])
def test_ranks(text):
    assert is_rank(text)


@pytest.mark.parametrize("text", ["", ".", "..", "x" * 65, "a b", "a/b", "w0\n", "ä", "٣", "{rank}"])
def test_no_ranks(text):
    assert not is_rank(text)


def test_the_order_is_natural():
    given_order = ["w10", "w2", "10", "9", "w", "w2a", "w02", "a1b10", "a1b9"]
    assert sorted(given_order, key=natural) == ["9", "10", "a1b9", "a1b10", "w", "w02", "w2", "w2a", "w10"]


@given(ranks, ranks)
def test_the_order_is_total(one, other):
    assert (natural(one) == natural(other)) == (one == other)


@given(st.lists(ranks, max_size=5))
def test_the_order_does_not_depend_on_where_it_begins(names):
    assert sorted(names, key=natural) == sorted(reversed(names), key=natural)
