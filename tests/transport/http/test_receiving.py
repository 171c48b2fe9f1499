"""Heads as they come in."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from leeway.errors import MalformedRequest
from leeway.protocol.fields import Query
from leeway.protocol.http.headers import accepted, wait_seconds
from leeway.transport.http import receiving


def request(target="/", *headers, **named):
    return make_mocked_request("GET", target, headers=CIMultiDict([*headers, *named.items()]))


class TestHeaders:
    def test_several_of_one_name_are_one_list(self):
        head = receiving.head(request("/", ("Prefer", "return=minimal"), ("prefer", "wait=5")))
        assert wait_seconds(head.headers["Prefer"]) == 5.0
        head = receiving.head(request("/", ("Accept", "a/b;q=0"), ("Accept", "c/d, e/f")))
        assert accepted(head.headers["Accept"]) == {"c/d", "e/f"}

    def test_those_that_say_something_of_a_message(self):
        head = receiving.head(request("/", ("If-None-Match", '"1.2"'), ("Cookie", "a=b")))
        assert head.headers == {"If-None-Match": '"1.2"'}

    def test_nobody_waits_unasked(self):
        assert receiving.head(request()).headers == {}


class TestQuery:
    def test_the_first_of_a_field_counts(self):
        fields = Query(receiving.head(request("/?clock=1&clock=2")).query)
        assert fields.integer("clock") == 1

    def test_what_is_wrong_is_named_with_its_place(self):
        with pytest.raises(MalformedRequest, match="query: 'clock' is 'x'"):
            Query(receiving.head(request("/?clock=x")).query).integer("clock")

    def test_no_field_at_all(self):
        assert "clock" not in Query(receiving.head(request()).query)


async def test_nothing_is_said_before_the_headers_have_passed():
    assert isinstance(request(), web.Request)
    assert await receiving.expected(request(Expect="100-continue")) is None
