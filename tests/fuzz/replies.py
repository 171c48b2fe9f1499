"""Replies through the mapping: what any server may answer a worker, read, written and read again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from leeway.errors import WireError
from leeway.protocol import documents, routes
from leeway.protocol.barriers import Barrier, Passed
from leeway.protocol.codes import Code
from leeway.protocol.handovers import Call, Direction, Handover, Label, Purpose, Taken
from leeway.protocol.http.headers import ETAG, LOCATION, RETRY_AFTER, retry_after_seconds
from leeway.protocol.http.replies import expect, read_reply, write_reply
from leeway.protocol.http.terms import Content, HttpReply
from leeway.protocol.lives import Life
from leeway.protocol.membership import Departed, Heartbeat, Join, Leave, Renewed
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Disposition, Push, PushPulled, Staged, UpdateKind
from leeway.protocol.quarantine import Quarantine, QuarantineState
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.replicas import Replica, Stage
from leeway.protocol.tuning import OptimizerState, PolicyState, SetOptimizer, SetPolicy
from tests.fuzz import trees
from tests.fuzz.target import same
from tests.protocol.drawn_replies import GRANTED, JOINED, NOT_YET, PUSHED

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from random import Random

    from leeway.protocol.messages import Reply, Request, StageRequest

_LIFE = Life("w0", 1, 1)
_LABEL = Label(_LIFE, 0, 1, 0, Direction.FORWARD)
ASKED: dict[str, Request | StageRequest] = {
    "join": Join("w0", "s"),
    "leave": Leave(_LIFE),
    "heartbeat": Heartbeat(_LIFE),
    "offer": Offer((), ask=True),
    "pull": Pull(life=_LIFE, clock=0),
    "push": Push(life=_LIFE, clock=0, version=1, kind=UpdateKind.SKIP),
    "barrier": Barrier(_LIFE, "b", 0),
    "policy": SetPolicy(PolicyTerms("async")),
    "optimizer": SetOptimizer("default", {}),
    "quarantine": Quarantine("w0", "noise"),
    "handover": Handover(_LABEL, Call(Purpose.SKIP), 0, 0),
}
_HEADERS = {name.lower(): name for name in (ETAG, LOCATION, RETRY_AFTER, routes.GRANT_HEADER, routes.REASON_HEADER)}
_MEDIA = {content.value: content for content in Content}
WORDS = (
    *ASKED,
    *_HEADERS.values(),
    *(str(each) for each in (*Code, *Reason, *Disposition)),
    *("epoch", "incarnation", "clock", "version", "groups", "disposition", "missing", "pulled", "pushed", "pull"),
    *("mode", "specs", "stored", "kept", "detail", "code", "status", "replica", "stages", "until", "waiting_for"),
    *(
        "index",
        "count",
        "lag",
        "round",
        "staleness",
        "settings",
        "passed",
        "generation",
        "committed",
        "last",
        "max_body_bytes",
    ),
)


class Target:
    longest_bytes = 2048
    reserved_bytes = 0

    def __init__(self, folder: Path) -> None:
        """It needs none."""

    def seeds(self) -> Iterable[bytes]:
        for asked, reply in _examples():
            yield _text(asked, write_reply(reply))
        yield b"pull 502 \n\n"
        yield b"pull 302 \nLocation: http://a\n\n"

    def words(self) -> Iterable[str]:
        return WORDS

    def take(self, data: bytes) -> bool:
        request, answer = _parsed(data)
        # Within range, whatever the server wishes.
        wish = retry_after_seconds(answer.headers)
        assert wish is None or 0 <= wish < 10**6
        try:
            reply = read_reply(request, answer)
        except (WireError, ValueError) as error:
            str(error)
            return False
        if isinstance(reply, Refused):
            # Refusals of no server are given a code of their own; they stay what they then are.
            document = reply.error.to_document()
            again = Refused.read(json.loads(json.dumps(document)), reply.error.status)
            same(str(reply.error), str(again.error), "the refusal")
            return True
        out = write_reply(reply)
        fields = None if out.fields is None else json.loads(json.dumps(out.fields))
        same(reply, read_reply(request, out._replace(fields=fields)), "the reply")
        return True

    def mutated(self, data: bytes, chance: Random) -> bytes | None:
        head, _, body = data.partition(b"\n\n")
        lines = head.decode("utf-8", "replace").split("\n")
        try:
            if body and chance.random() < 0.8:
                body = json.dumps(trees.changed(json.loads(body), chance, WORDS)).encode()
            else:
                at = chance.randrange(len(lines))
                name, colon, value = lines[at].partition(": ")
                if not colon:
                    words = name.split(" ")
                    words[chance.randrange(len(words))] = chance.choice(("200", "202", "204", "304", "409", *ASKED))
                    lines[at] = " ".join(words)
                else:
                    lines[at] = f"{name}: {json.dumps(trees.changed(json.loads(value), chance, WORDS))}"
        except (ValueError, RecursionError):
            return None
        return "\n".join(lines).encode("utf-8", "replace") + b"\n\n" + body


def _examples() -> Iterable[tuple[str, Reply]]:
    refused = Refused(WireError(Code.WRONG_CLOCK, "its clock is 3", clock=3))
    stages = replace(JOINED, replica=Replica((Stage("http://a:1", "n"), Stage("", "")), "secret"))
    yield from (("join", JOINED), ("join", stages), ("leave", Departed("w0")), ("heartbeat", Renewed(10.0)))
    yield from (("offer", Offered(("a",), ("b",), ("c",))), ("barrier", Passed("b", 2)))
    yield from (("pull", GRANTED), ("pull", replace(GRANTED, unchanged=True)), ("pull", NOT_YET), ("pull", refused))
    for disposition in Disposition:
        yield "push", replace(PUSHED, disposition=disposition)
    for pulled in (GRANTED, NOT_YET, refused):
        yield "push", PushPulled(PUSHED, pulled)
    yield "push", Staged(3, (0, 2))
    yield "policy", PolicyState("default", PolicyTerms("ssp", 3), 4)
    yield "policy", PolicyState("default", PolicyTerms("sync", None, 2, 0.5), None)
    yield "optimizer", OptimizerState("default", {"lr": 0.1, "kind": "sgd"})
    yield "quarantine", QuarantineState("w0", "noise")
    yield "quarantine", QuarantineState("w0")
    yield "handover", Taken.of(_LABEL, repeated=True)


def _text(asked: str, answer: HttpReply) -> bytes:
    head = [f"{asked} {answer.status} {answer.content.value or ''}"]
    head += [f"{name}: {value}" for name, value in answer.headers.items()]
    body = b"" if answer.fields is None else json.dumps(answer.fields).encode()
    return "\n".join(head).encode() + b"\n\n" + body


def _parsed(data: bytes) -> tuple[Request | StageRequest, HttpReply]:
    head, _, body = data.partition(b"\n\n")
    line, *lines = head.decode("utf-8", "replace").split("\n")
    asked, _, rest = line.partition(" ")
    status, _, media = rest.partition(" ")
    request = ASKED.get(asked, ASKED["pull"])
    number = int(status) if status.isascii() and status.isdigit() and len(status) == 3 else 200
    headers = {}
    for name, _, value in (row.partition(":") for row in lines):
        headers[_HEADERS.get(name.strip().lower(), name)] = value.strip()
    content = _MEDIA.get(media, Content.NOTHING)
    fields: Any = None
    if expect(request, number, media) is not Content.NOTHING:
        try:
            fields = documents.parse(body)
        except ValueError:
            content = Content.NOTHING
    return request, HttpReply(number, headers, content, fields)
