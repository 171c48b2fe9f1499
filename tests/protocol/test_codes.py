from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leeway.errors import BodyTooLarge, MalformedFrame, MalformedRequest, WireError
from leeway.protocol.codes import STATUS, Code


def test_every_code_has_a_status():
    assert set(STATUS) == set(Code)
    assert all(400 <= status <= 599 for status in STATUS.values())


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.OLD_EPOCH, 409),
        (Code.NOT_GRANTED, 409),
        (Code.SUPERSEDED, 409),
        (Code.FENCED, 409),
        (Code.SCHEMA_CLOSED, 409),
        (Code.EVICTED, 410),
        (Code.LEFT, 410),
        (Code.FINISHED, 410),
        (Code.BODY_TOO_LARGE, 413),
        (Code.NON_FINITE, 422),
        (Code.WRONG_TENSOR, 422),
        (Code.STOPPING, 503),
    ],
)
def test_the_status_that_the_contract_names(code, status):
    assert WireError(code, "why").status == status


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MalformedFrame, Code.MALFORMED_FRAME),
        (MalformedRequest, Code.MALFORMED_REQUEST),
        (BodyTooLarge, Code.BODY_TOO_LARGE),
    ],
)
def test_the_tree(error, code):
    raised = error("why")
    assert isinstance(raised, WireError)
    assert (raised.code, raised.detail, str(raised)) == (code, "why", f"{code}: why")


def test_an_error_travels_as_a_problem_document():
    error = WireError(Code.WRONG_CLOCK, "pull that one", clock=7)
    document = json.loads(json.dumps(error.to_document()))
    assert document == {
        "type": "urn:leeway:problem:wrong-clock",
        "title": "wrong clock",
        "status": 409,
        "code": "wrong-clock",
        "detail": "pull that one",
        "clock": 7,
    }
    back = WireError.from_document(document, 409)
    assert (back.code, back.detail, back.facts) == (Code.WRONG_CLOCK, "pull that one", {"clock": 7})


def test_facts_do_not_hide_the_standard_members():
    document = WireError(Code.BUSY, "why", status=1, type="x", detail="y", self="z").to_document()
    assert (document["status"], document["type"], document["detail"]) == (503, "urn:leeway:problem:busy", "why")
    assert document["self"] == "z"


@pytest.mark.parametrize("document", [None, [], "text", 7])
def test_no_document_at_all(document):
    error = WireError.from_document(document, 502)
    assert (error.code, error.detail) == (Code.INTERNAL, "the peer answered HTTP 502 without a problem document")


def test_a_document_of_somebody_else():
    error = WireError.from_document({"title": "Bad Gateway", "x": 1}, 502)
    assert (error.code, error.detail, error.facts) == (Code.INTERNAL, "HTTP 502", {"x": 1})


@given(st.dictionaries(st.text() | st.integers(), st.none() | st.integers() | st.text() | st.lists(st.text())))
@example({"self": 1, "cls": 2, "facts": 3})
@example({"code": ["busy"], "detail": None})
def test_whatever_comes_is_an_error(document):
    error = WireError.from_document(document, 500)
    assert isinstance(error, WireError)
    assert isinstance(error.code, Code)
    assert str(error)
