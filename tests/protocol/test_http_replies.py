"""Replies to HTTP and back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.errors import BodyTooLarge, MalformedRequest, WireError
from leeway.protocol.barriers import Barrier, Passed
from leeway.protocol.codes import STATUS, Code
from leeway.protocol.decoder import decode
from leeway.protocol.frames import encode
from leeway.protocol.handovers import Call, Direction, Handover, Label, Purpose, Taken
from leeway.protocol.http.replies import expect, read_reply, write_reply
from leeway.protocol.http.terms import Content, HttpReply
from leeway.protocol.lives import Life
from leeway.protocol.membership import Departed, GroupState, Heartbeat, Join, Joined, Leave, Renewed
from leeway.protocol.messages import Reply
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Disposition, LastPush, Push, Pushed, PushPulled, Staged, UpdateKind
from leeway.protocol.quarantine import QuarantineState, Release
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.tuning import OptimizerState, PolicyState, SetOptimizer, SetPolicy
from tests.protocol.drawn_replies import GRANTED, NOT_YET, PUSHED, REPLIES

LIFE = Life("w0", 3, 2)
PUSH = Push(LIFE, 5, 7, UpdateKind.GRADIENT, 4, pull=True)
ANSWERS = {
    Joined: Join("w0", "s"),
    Departed: Leave(LIFE),
    Renewed: Heartbeat(LIFE),
    Offered: Offer(()),
    Granted: Pull(),
    NotYet: Pull(),
    Pushed: PUSH,
    Staged: PUSH,
    PushPulled: PUSH,
    Passed: Barrier(LIFE, "b", 1),
    PolicyState: SetPolicy(PolicyTerms("sync")),
    OptimizerState: SetOptimizer("default", {}),
    QuarantineState: Release("w0"),
    Taken: Handover(Label(LIFE, 0, 1, 5, Direction.FORWARD), Call(Purpose.TRAIN), 4, 8),
    Refused: PUSH,
}


def travelled(request, reply):
    """What the other side reads, of what it is told: the head, and the content as bytes."""
    sent = write_reply(reply)
    content = expect(request, sent.status, sent.content.value or "application/octet-stream")
    assert content is sent.content
    match content:
        case Content.NOTHING:
            fields = None
        case Content.FRAME:
            fields = decode(b"".join(encode(sent.fields))).message
        case _:
            fields = json.loads(json.dumps(sent.fields))
    assert all(value.isascii() and value.isprintable() for value in sent.headers.values())
    return read_reply(request, sent._replace(fields=fields))


def test_every_reply_answers_something():
    assert ANSWERS.keys() == REPLIES.keys() - {LastPush, GroupState} == set(get_args(Reply))


@pytest.mark.parametrize("kind", ANSWERS)
@settings(max_examples=60)
@given(data=st.data())
def test_a_reply_is_read_as_it_was_written(kind, data):
    reply = data.draw(REPLIES[kind])
    assert reply == travelled(ANSWERS[kind], reply)


@pytest.mark.parametrize("request_", [*ANSWERS.values()])
@pytest.mark.parametrize("code", Code)
def test_any_request_may_be_refused(request_, code):
    error = WireError(code, "w\u00f6rds", clock=3)
    sent = write_reply(Refused(error))
    assert (sent.status, "Retry-After" in sent.headers) == (STATUS[code], STATUS[code] in (429, 503))
    assert travelled(request_, Refused(error)).error.to_document() == error.to_document()


@pytest.mark.parametrize("request_", [Pull(), PUSH, Barrier(LIFE, "b", 1)])
def test_whoever_waits_may_have_to_ask_again(request_):
    assert travelled(request_, NOT_YET) == NOT_YET


@pytest.mark.parametrize(
    ("reply", "status", "content"),
    [
        (GRANTED, 200, Content.FRAME),
        (replace(GRANTED, unchanged=True), 304, Content.NOTHING),
        (NOT_YET, 204, Content.NOTHING),
        (PUSHED, 200, Content.JSON),
        (replace(PUSHED, disposition=Disposition.HELD), 202, Content.JSON),
        (Staged(0, (1,)), 202, Content.JSON),
        (PushPulled(PUSHED, NOT_YET), 200, Content.FRAME),
        (PushPulled(replace(PUSHED, disposition=Disposition.HELD), GRANTED), 202, Content.FRAME),
        (Passed("b", 0), 200, Content.JSON),
    ],
)
def test_what_a_status_says(reply, status, content):
    sent = write_reply(reply)
    assert (sent.status, sent.content) == (status, content)
    assert ("Etag" in sent.headers) == isinstance(reply, Granted)


def test_a_reason_is_one_header():
    reply = NotYet(Reason.LAG, "w\u00e4it\r\nX-Evil: 1", tuple(f"w{i}" for i in range(1000)))
    sent = write_reply(reply)
    header = sent.headers["Leeway-Reason"]
    assert header.isascii()
    assert header.isprintable()
    told = json.loads(header)
    assert told["detail"] == reply.detail
    assert len(told["waiting_for"]) == 64
    assert sent.headers["Retry-After"] == "1"


def test_a_header_that_names_many_fits_a_client():
    """Clients take 8 KiB a line."""
    reply = NotYet(Reason.LAG, "x" * 600, tuple("r" * 60 + str(i) for i in range(64)))
    assert len(write_reply(reply).headers["Leeway-Reason"]) < 8000


class TestWhatIsNotOurs:
    @pytest.mark.parametrize(
        ("status", "headers", "code", "words"),
        [
            (502, {}, Code.INTERNAL, "http://host/x answered HTTP 502; is that a Leeway server?"),
            (503, {}, Code.INTERNAL, "HTTP 503"),
            (504, {}, Code.INTERNAL, "HTTP 504"),
            (522, {}, Code.INTERNAL, "HTTP 522"),
            (429, {}, Code.INTERNAL, "HTTP 429"),
            (501, {}, Code.NOT_FOUND, "http://host/x answered HTTP 501; is that a Leeway server?"),
            (505, {}, Code.NOT_FOUND, "HTTP 505"),
            (404, {}, Code.NOT_FOUND, "HTTP 404"),
            (302, {"Location": "/login"}, Code.NOT_FOUND, "HTTP 302, it points to /login; is that"),
            (413, {}, Code.BODY_TOO_LARGE, "something before the server limits bodies"),
        ],
    )
    def test_a_refusal(self, status, headers, code, words):
        assert expect(Pull(), status, "text/html") is Content.NOTHING
        refused = read_reply(Pull(), HttpReply(status, headers), "http://host/x")
        assert refused.error.code is code
        assert words in refused.error.detail
        assert isinstance(refused.error, BodyTooLarge) == (status == 413)

    @pytest.mark.parametrize(
        ("request_", "answer", "words"),
        [
            (Pull(), HttpReply(204), "HTTP 204 without the header Leeway-Reason"),
            (Pull(), HttpReply(304), "HTTP 304 without the header Leeway-Grant"),
            (Pull(), HttpReply(204, {"Leeway-Reason": "{"}), "Expecting"),
        ],
    )
    def test_a_header_that_is_none(self, request_, answer, words):
        with pytest.raises(ValueError, match=words):
            read_reply(request_, answer)

    @pytest.mark.parametrize("fields", [None, 7, "missing", ["missing"], {}])
    @pytest.mark.parametrize("request_", [request for kind, request in ANSWERS.items() if kind is not Refused])
    def test_a_document_that_is_none(self, request_, fields):
        content = Content.FRAME if isinstance(request_, Pull) else Content.JSON
        with pytest.raises(MalformedRequest):
            read_reply(request_, HttpReply(200, {}, content, fields))

    def test_a_page_where_a_frame_belongs_is_received_as_a_frame(self):
        """So that the decoder says what is wrong with it."""
        assert expect(Pull(), 200, "text/html") is Content.FRAME

    def test_nothing_new_of_what_is_no_pull(self):
        assert expect(Leave(LIFE), 304, "application/json") is Content.JSON
