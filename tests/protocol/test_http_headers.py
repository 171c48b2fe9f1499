"""The headers that say something of a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.errors import MalformedRequest
from leeway.protocol.http.headers import accepted, prefer_wait, retry_after_seconds, wait_seconds
from leeway.protocol.limits import MAX_WAIT_SECONDS


class TestWait:
    @pytest.mark.parametrize(
        ("prefer", "seconds"),
        [
            ("wait=10", 10.0),
            ("wait=0", 0.0),
            ("wait=2.5", 2.5),
            ('wait="7"', 7.0),
            (" Wait = 4 ", 4.0),
            ("respond-async, wait=3", 3.0),
            ("respond-async", None),
            ("waiting=3", None),
            ("wait=1e9", MAX_WAIT_SECONDS),
            ("wait=inf", MAX_WAIT_SECONDS),
            ("", None),
            (None, None),
        ],
    )
    def test_is_read_and_cut(self, prefer, seconds):
        assert wait_seconds(prefer) == seconds

    @pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "1x5" * 40])
    def test_or_refused_with_its_value(self, value):
        with pytest.raises(MalformedRequest, match="must be a number of seconds, 0 or more") as error:
            wait_seconds(f"wait={value}")
        assert repr(value[:40]) in str(error.value)

    @given(st.floats(0, MAX_WAIT_SECONDS))
    def test_is_read_as_it_was_written(self, seconds):
        assert wait_seconds(prefer_wait(seconds)) == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize(
    ("accept", "ranges"),
    [
        (None, {"*/*"}),
        ("a/b", {"a/b"}),
        ("A/B, c/d;q=0.5", {"a/b", "c/d"}),
        ("a/b;q=0, c/d; q = 0.00,e/f;q=0.01", {"e/f"}),
        ("", {""}),
    ],
)
def test_what_an_asker_takes(accept, ranges):
    assert accepted(accept) == ranges


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "1"}, 1.0),
        ({"Retry-After": "999999"}, 999999.0),
        ({"Retry-After": "1000000"}, None),
        ({"Retry-After": "1.5"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"Retry-After": "\u0663"}, None),
    ],
)
def test_when_to_ask_again(headers, seconds):
    assert retry_after_seconds(headers) == seconds
