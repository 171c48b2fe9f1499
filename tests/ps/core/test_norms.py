"""How large an update may be: by an absolute limit, and beside what is usual."""

import sys
from statistics import median

from hypothesis import given
from hypothesis import strategies as st

from leeway.protocol.pushes import UpdateKind
from leeway.ps.core.norms import KEPT, NEEDED, Norms

GRADIENT, DELTA, MODEL = UpdateKind.GRADIENT, UpdateKind.DELTA, UpdateKind.MODEL


def test_without_limits_nothing_is_measured():
    norms = Norms()
    assert not norms.matter
    norms.accepted("w0", GRADIENT, 1.0)
    assert norms.excess(GRADIENT, 1e300) is None
    assert Norms(1.0).matter
    assert Norms(None, 2.0).matter


def test_the_absolute_limit():
    norms = Norms(10.0)
    assert norms.excess(GRADIENT, 10.0) is None
    assert norms.excess(GRADIENT, 10.5) == "its norm is 10.5, and at most 10 is taken"


def test_the_median_counts_from_so_many_on():
    norms = Norms(None, 3.0)
    for count in range(NEEDED):
        assert norms.excess(GRADIENT, 1e9) is None, count
        norms.accepted(f"w{count % 2}", GRADIENT, 2.0)
    assert norms.excess(GRADIENT, 6.0) is None
    assert norms.excess(GRADIENT, 6.1) == "its norm is 6.1, more than 3 times the median of late, 2"


def test_kinds_are_not_compared():
    norms = Norms(None, 3.0)
    for _ in range(NEEDED):
        norms.accepted("w0", DELTA, 0.01)
    assert norms.excess(MODEL, 100.0) is None
    assert norms.excess(DELTA, 0.1)


def test_where_all_are_zero_nothing_is_too_large():
    norms = Norms(None, 3.0)
    for _ in range(NEEDED):
        norms.accepted("w0", GRADIENT, 0.0)
    assert norms.excess(GRADIENT, 1.0) is None


def test_a_minority_cannot_move_the_limit_however_often_it_pushes():
    norms = Norms(None, 3.0)
    for rank in ("w0", "w1", "w2"):
        for _ in range(KEPT):
            norms.accepted(rank, GRADIENT, 1.0)
    for _ in range(1000):
        for rank in ("bad0", "bad1"):
            assert norms.excess(GRADIENT, 3.0) is None
            norms.accepted(rank, GRADIENT, 3.0)
    assert norms.excess(GRADIENT, 3.1)


def test_whoever_has_gone_counts_no_more():
    norms = Norms(None, 2.0)
    for rank, size in (("old", 100.0), ("w0", 1.0)):
        for _ in range(KEPT):
            norms.accepted(rank, GRADIENT, size)
    assert norms.excess(GRADIENT, 50.0) is None
    norms.forget("old")
    norms.forget("nobody")
    assert norms.excess(GRADIENT, 50.0)


@given(st.lists(st.tuples(st.sampled_from(["w0", "w1", "w2"]), st.floats(0, 1e6), st.booleans()), max_size=80))
def test_it_is_the_median_of_the_last_few_of_each(told):
    norms, of = Norms(None, 2.0), {}
    for rank, norm, goes in told:
        norms.accepted(rank, GRADIENT, norm)
        of[rank] = [*of.get(rank, []), norm][-KEPT:]
        if goes and len(of) > 1:
            norms.forget(rank)
            del of[rank]
    known = [norm for last in of.values() for norm in last]
    if len(known) < NEEDED or median(known) == 0:
        assert norms.excess(GRADIENT, 1e300) is None
    else:
        assert norms.excess(GRADIENT, 2 * median(known) * (1 + 1e-12) + 1e-300)
        assert norms.excess(GRADIENT, 2 * median(known)) is None


def test_what_has_no_norm_is_larger_than_any_limit():
    assert Norms(1e300).excess(GRADIENT, sys.float_info.max)
