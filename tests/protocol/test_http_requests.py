"""Requests to HTTP and back: nothing is lost, and what is wrong in a head is said before a body is taken."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import limits, routes
from leeway.protocol.barriers import Barrier
from leeway.protocol.codes import Code
from leeway.protocol.decoder import decode
from leeway.protocol.documents import parse
from leeway.protocol.fields import Fields
from leeway.protocol.frames import encode
from leeway.protocol.handovers import Call, Direction, Handover, Label, Purpose
from leeway.protocol.http.headers import compact
from leeway.protocol.http.requests import read_head, read_label, waits_seconds, write_request
from leeway.protocol.http.terms import Content, HttpRequest
from leeway.protocol.lives import Life
from leeway.protocol.membership import Heartbeat, Join, Leave
from leeway.protocol.messages import Request, StageRequest
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.tuning import SetPolicy
from leeway.protocol.versions import Version
from tests.protocol.drawn_requests import ON_THE_WIRE, carried

LIFE = Life("w0", 3, 2)
PUSH = Push(LIFE, 5, 7, UpdateKind.GRADIENT, 4)
HANDOVER = Handover(Label(LIFE, 0, 1, 5, Direction.FORWARD, 3), Call(Purpose.TRAIN, 4), 8, 32)
W = TensorSpec("w", (3,), "float32", Kind.TRAINABLE)


def travelled(request, specs=()):
    """What the other side reads, of what it is told: the head without the content, and the content as bytes."""
    sent = write_request(request)
    head = sent._replace(content=Content.NOTHING, fields=None)
    if isinstance(request, Handover):
        frame = framed(sent, specs)
        return Handover.read(Fields(frame.message, "handover"), read_label(head), frame.specs)
    awaited = read_head(head)
    assert awaited.content is sent.content
    match sent.content:
        case Content.NOTHING:
            return awaited.read({}, ())
        case Content.JSON:
            content = compact(sent.fields)
            assert len(content) <= awaited.limit_bytes
            return awaited.read(parse(content), ())
        case Content.FRAME:
            frame = framed(sent, specs)
            return awaited.read(frame.message, frame.specs)


def framed(sent, specs):
    layout = Layout.of(specs)
    return decode(b"".join(encode(sent.fields, layout, [bytes(layout.nbytes)])))


def test_every_request_is_drawn():
    assert ON_THE_WIRE.keys() == set(get_args(Request | StageRequest))


@pytest.mark.parametrize("kind", ON_THE_WIRE)
@settings(max_examples=60)
@given(data=st.data())
def test_a_request_is_read_as_it_was_written(kind, data):
    request = data.draw(ON_THE_WIRE[kind])
    specs = getattr(request, "specs", ())
    if kind is Push:
        specs = tuple(replace(W, name=name) for name in request.keys)
    if kind is Handover:
        specs = carried(request)
    read = travelled(request, specs)
    assert read == request
    if kind is Push:
        assert (read.metrics, read.times) == (request.metrics, request.times)


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (Join("w0", "s"), "POST /v1/workers"),
        (Leave(LIFE), "DELETE /v1/workers/w0"),
        (Heartbeat(LIFE), "PUT /v1/workers/w0/lease"),
        (Offer((W,)), "PUT /v1/params"),
        (Pull(), "GET /v1/params"),
        (PUSH, "POST /v1/updates"),
        (Barrier(LIFE, "b", 0), "POST /v1/barriers/b"),
        (SetPolicy(PolicyTerms("sync")), "PUT /v1/policy"),
        (HANDOVER, "POST /v1/handovers"),
    ],
)
def test_where_requests_go(request_, line):
    sent = write_request(request_)
    assert f"{sent.method} {sent.path}" == line


def test_a_head_may_be_asked_for():
    assert read_head(HttpRequest("HEAD", routes.PARAMS)).read({}, ()) == Pull()


def test_what_is_no_request():
    with pytest.raises(WireError, match="'/v1/params' is no request of the protocol") as refused:
        read_head(HttpRequest("POST", routes.PARAMS))
    assert refused.value.code is Code.NOT_FOUND


def test_a_server_is_handed_nothing_and_a_stage_is_asked_nothing_else():
    for read, request in ((read_head, HANDOVER), (read_label, PUSH)):
        with pytest.raises(WireError, match="is no request of the protocol") as refused:
            read(write_request(request))
        assert refused.value.code is Code.NOT_FOUND


def test_whose_a_handover_is_stands_in_its_head():
    sent = write_request(HANDOVER)
    assert sent.query.keys() == HANDOVER.label.to_fields().keys()
    assert sent.query.keys().isdisjoint(sent.fields)


@pytest.mark.parametrize("asks", [PUSH, replace(PUSH, pull=True, since=Version(1, 2), wait_seconds=20.0)])
def test_what_a_push_asks_for_is_not_in_its_body(asks):
    assert write_request(asks).fields == PUSH.to_fields()


@pytest.mark.parametrize(
    ("request_", "seconds"),
    [(Pull(wait_seconds=3.0), 3.0), (replace(PUSH, wait_seconds=None), 0.0), (Leave(LIFE), 0.0), (HANDOVER, 0.0)],
)
def test_how_long_an_answer_may_take(request_, seconds):
    assert waits_seconds(request_) == seconds


class TestHeads:
    """What is wrong in a head is said before any content is asked for."""

    @pytest.mark.parametrize(
        ("head", "words"),
        [
            (HttpRequest("PUT", routes.PARAMS, query={"ask": "2"}), "'ask' is '2'"),
            (HttpRequest("POST", routes.UPDATES, query={"since": "x"}), "not of the form epoch.number"),
            (HttpRequest("POST", routes.UPDATES, headers={"Prefer": "wait=x"}), "Prefer: wait='x'"),
            (HttpRequest("GET", routes.PARAMS, query={"min_version": "x"}), "'min_version' is 'x'"),
            (HttpRequest("PUT", routes.LEASE, {"rank": "w0"}, {"incarnation": "1"}), "'epoch' is missing"),
            (HttpRequest("DELETE", routes.WORKER, {"rank": "a b"}), "'rank' is 'a b'"),
        ],
    )
    def test_refused(self, head, words):
        with pytest.raises(MalformedRequest, match=words):
            read_head(head)

    def test_the_place_in_the_path_counts(self):
        query = {"rank": "other", "epoch": "3", "incarnation": "2"}
        assert read_head(HttpRequest("PUT", routes.LEASE, {"rank": "w0"}, query)).read({}, ()) == Heartbeat(LIFE)

    def test_a_question_may_be_longer_than_other_documents(self):
        assert (
            read_head(HttpRequest("PUT", routes.PARAMS, query={"ask": "1"})).limit_bytes == limits.MAX_REPLY_JSON_BYTES
        )


class TestContents:
    def test_a_tensor_that_is_asked_for_twice(self):
        with pytest.raises(WireError) as refused:
            travelled(Offer((W, W), ask=True))
        assert (refused.value.code, refused.value.facts) == (Code.DUPLICATE_TENSOR, {"tensor": "w"})

    def test_an_offer_of_nothing(self):
        with pytest.raises(MalformedRequest, match="carries no tensor"):
            travelled(Offer(()))

    def test_whether_to_pull_is_read_with_the_content(self):
        awaited = read_head(HttpRequest("POST", routes.UPDATES, query={"pull": "2"}))
        with pytest.raises(MalformedRequest, match="'pull' is '2'"):
            awaited.read(PUSH.to_fields(), ())


class TestTags:
    @pytest.mark.parametrize(
        ("query", "tag", "since"),
        [
            ({}, '"1.2"', Version(1, 2)),
            ({}, 'W/"1.2"', Version(1, 2)),
            ({}, '"of somebody else"', None),
            ({}, "*", None),
            ({"since": "1.1"}, '"1.2"', Version(1, 1)),
        ],
    )
    def test_a_version_that_is_known(self, query, tag, since):
        head = HttpRequest("GET", routes.PARAMS, query=query, headers={"If-None-Match": tag})
        assert read_head(head).read({}, ()).since == since
