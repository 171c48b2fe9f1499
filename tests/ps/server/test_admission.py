"""Headers, queries and bodies as they come in."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from leeway.errors import MalformedRequest
from leeway.protocol.limits import MAX_WAIT_SECONDS
from leeway.ps.server import admission


def request(target="/", **headers):
    return make_mocked_request("GET", target, headers=CIMultiDict(headers))


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
        ],
    )
    def test_is_read_and_cut(self, prefer, seconds):
        assert admission.wait_seconds(request(Prefer=prefer)) == seconds

    def test_nobody_waits_unasked(self):
        assert admission.wait_seconds(request()) is None

    def test_in_a_header_of_its_own(self):
        headers = CIMultiDict([("Prefer", "return=minimal"), ("Prefer", "wait=5")])
        assert admission.wait_seconds(make_mocked_request("GET", "/", headers=headers)) == 5.0

    @pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "1,5" * 40])
    def test_or_refused_with_its_value(self, value):
        if "," in value:
            value = value.replace(",", "x")
        with pytest.raises(MalformedRequest, match="must be a number of seconds, 0 or more") as error:
            admission.wait_seconds(request(Prefer=f"wait={value}"))
        assert repr(value[:40]) in str(error.value)


class TestQuery:
    def test_the_first_of_a_field_counts(self):
        fields = admission.query(request("/?clock=1&clock=2"))
        assert fields.integer("clock") == 1

    def test_what_is_wrong_is_named_with_its_place(self):
        with pytest.raises(MalformedRequest, match="query: 'clock' is 'x'"):
            admission.query(request("/?clock=x")).integer("clock")

    def test_no_field_at_all(self):
        assert "clock" not in admission.query(request())


async def test_nothing_is_said_before_the_headers_have_passed():
    assert isinstance(request(), web.Request)
    assert await admission.expected(request(Expect="100-continue")) is None
