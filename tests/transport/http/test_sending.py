"""Replies as HTTP responses."""

import json

import pytest

from leeway.errors import WireError
from leeway.protocol.barriers import Passed
from leeway.protocol.codes import STATUS, Code
from leeway.protocol.membership import Departed, Renewed
from leeway.protocol.offers import Offered
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted, NotYet
from leeway.protocol.pushes import Disposition, Pushed, PushPulled, Staged
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.tuning import PolicyState
from leeway.protocol.versions import Version
from leeway.transport.http import sending

GRANTED = Granted(Version(1, 2), Reason.GRANTED)


class TestProblem:
    @pytest.mark.parametrize("code", Code)
    def test_every_code_has_its_status(self, code):
        response = sending.problem(WireError(code, "words", clock=3))
        assert response.status == STATUS[code]
        assert response.content_type == "application/problem+json"
        document = json.loads(response.text)
        assert (document["code"], document["status"], document["clock"]) == (str(code), response.status, 3)
        assert ("Retry-After" in response.headers) == (response.status in (429, 503))

    def test_with_a_header_of_its_own(self):
        response = sending.problem(WireError(Code.METHOD_NOT_ALLOWED, "no"), {"Allow": "GET"})
        assert response.headers["Allow"] == "GET"

    def test_words_that_are_no_text(self):
        """A lone surrogate can come in as JSON and must get out again."""
        assert "\\ud800" in sending.problem(WireError(Code.INVALID_VALUE, "\ud800")).text


class TestSmall:
    @pytest.mark.parametrize(
        ("reply", "status"),
        [
            (Departed("w0"), 200),
            (Renewed(10.0), 200),
            (Offered(("a",), ()), 200),
            (Passed("b", 0), 200),
            (PolicyState("default", PolicyTerms("ssp", 3)), 200),
            (Pushed(0, Disposition.APPLIED, Reason.ON_ARRIVAL, 1, 0), 200),
            (Pushed(0, Disposition.SKIPPED, Reason.SKIPPED), 200),
            (Pushed(0, Disposition.HELD, Reason.IN_ROUND), 202),
            (Staged(0, (1,)), 202),
        ],
    )
    def test_is_json(self, reply, status):
        response = sending.small(reply)
        assert response.status == status
        assert response.content_type == "application/json"
        assert json.loads(response.text) == reply.to_fields()

    def test_not_yet_has_no_body(self):
        reply = NotYet(Reason.LAG, "w\u00e4it\r\nX-Evil: 1", tuple(f"w{i}" for i in range(1000)))
        response = sending.small(reply)
        assert (response.status, response.body) == (204, None)
        header = response.headers["Leeway-Reason"]
        assert header.isascii()
        assert header.isprintable()
        told = json.loads(header)
        assert told["detail"] == reply.detail
        assert len(told["waiting_for"]) == 64
        assert response.headers["Retry-After"] == "1"

    def test_a_refusal_is_raised(self):
        error = WireError(Code.FENCED, "no")
        with pytest.raises(WireError) as raised:
            sending.small(Refused(error))
        assert raised.value is error

    def test_what_carries_tensors_is_not_small(self):
        pushed = Pushed(0, Disposition.APPLIED, Reason.ON_ARRIVAL)
        for reply in (GRANTED, PushPulled(pushed, GRANTED)):
            with pytest.raises(AssertionError):
                sending.small(reply)


def test_what_cannot_be_served_is_cut_short():
    error = sending.not_acceptable("x/y" * 1000)
    assert error.status == 406
    assert len(error.detail) < 400
