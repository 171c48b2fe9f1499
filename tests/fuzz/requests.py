"""Requests through the mapping: read, written and read again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import documents, limits
from leeway.protocol.fields import Fields
from leeway.protocol.http.requests import read_head, write_request
from leeway.protocol.http.terms import Content
from leeway.protocol.metadata import TABLE_KEY
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.tensors import DTYPES, Kind, TensorSpec
from tests.fuzz import heads
from tests.fuzz.heads import Text, text
from tests.fuzz.target import same

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from random import Random

    from leeway.protocol.messages import Request

LIFE = "rank=w0&epoch=1&incarnation=1"
LIFE_FIELDS = {"rank": "w0", "epoch": 1, "incarnation": 1}
ROW = ["a", "float32", "trainable", [3]]
PLACE = {
    "stage": 0,
    "stages": 2,
    "address": "http://a:1",
    "plan": {"model": "m"},
    "notes": "n",
    "keys": ["a", "b"],
    "owned": ["a"],
}
PUSH = {**LIFE_FIELDS, "clock": 0, "version": 1, "kind": "gradient", "samples": 8}

# One request, or a few, of each kind.
SEEDS = (
    text("POST", "/v1/workers", {"rank": "w0", "session": "s", "groups": ["default"]}),
    text("POST", "/v1/workers", {"rank": "r0", "session": "s", "place": PLACE}, Prefer="wait=5"),
    text("DELETE", f"/v1/workers/w0?{LIFE}"),
    text("PUT", f"/v1/workers/w0/lease?{LIFE}"),
    text("PUT", "/v1/params?ask=1", {"specs": [ROW], "whole": True, "spread": True, "aliases": {"a": ["b"]}}),
    text("PUT", "/v1/params", {"group": "default", TABLE_KEY: [ROW]}),
    text("GET", f"/v1/params?{LIFE}&clock=0&group=default&since=1.1", Prefer="wait=3", If_None_Match='"1.1"'),
    text("GET", "/v1/params?min_version=1&keys=a"),
    text("POST", "/v1/updates?pull=1&since=1.1", {**PUSH, "round": 0, "metrics": {"loss": 1.5}, TABLE_KEY: [ROW]}),
    text("POST", "/v1/updates", {**PUSH, "part": 0, "parts": 2, "times": {"samples": 1}, TABLE_KEY: [ROW]}),
    text("POST", "/v1/updates", {**PUSH, "kind": "skip", "samples": 0}),
    text("POST", "/v1/barriers/b", {**LIFE_FIELDS, "generation": 0, "parties": 2}, Prefer="wait=1"),
    text("PUT", "/v1/policy?group=default", {"mode": "ssp", "staleness": 3}),
    text("PUT", "/v1/policy", {"mode": "sync", "quorum": 2, "grace_seconds": 0.5}),
    text("PUT", "/v1/quarantine/w0", {"why": "its updates are noise"}),
    text("DELETE", "/v1/quarantine/w0"),
    text("PUT", "/v1/optimizer", {"kind": "sgd", "lr": 0.1, "momentum": 0.9}),
)
WORDS = (
    *("rank", "epoch", "incarnation", "stage", "stages", "session", "groups", "place", "address", "plan", "notes"),
    *("keys", "owned", "clock", "version", "round", "kind", "samples", "part", "parts", "metrics", "times", "values"),
    *("generation", "parties", "mode", "staleness", "quorum", "grace_seconds", "lr", "momentum", "specs", "whole"),
    *("spread", "aliases", "group", "min_version", "since", "ask", "pull", "tensors", "wait=", "sync", "async", "ssp"),
    *("Prefer", "If-None-Match", "HEAD", "capabilities", "one_after_another", "revision", "why", "w0", "default"),
    *(*Kind, *DTYPES, *UpdateKind),
)


class Target:
    longest_bytes = 2048
    reserved_bytes = 0

    def __init__(self, folder: Path) -> None:
        """It needs none."""

    def seeds(self) -> Iterable[bytes]:
        return SEEDS

    def words(self) -> Iterable[str]:
        return WORDS

    def take(self, data: bytes) -> bool:
        try:
            request, specs = read(Text.of(data))
        except WireError as error:
            json.dumps(error.to_document())
            return False
        head = write_request(request)
        text = Text.of(Text(head).written())
        awaited = read_head(text.head)
        again = awaited.read(json.loads(json.dumps(dict(head.fields or {}))), specs)
        if isinstance(request, Push) and not request.pull:
            request = replace(request, since=None)  # nobody is asked what is held
        same(request, again, "the request")
        return True

    def mutated(self, data: bytes, chance: Random) -> bytes | None:
        return heads.mutated(data, chance, WORDS)


def read(request: Text) -> tuple[Request, tuple[TensorSpec, ...]]:
    """The message, and the tensors of its frame: here they stand in the JSON, under the key that they have in a frame.

    Raises `WireError`.
    """
    awaited = read_head(request.head)
    if awaited.content is Content.NOTHING:
        return awaited.read({}, ()), ()
    fields, specs = _object(request.body), ()
    if awaited.content is Content.FRAME:
        fields = dict(fields)
        rows = Fields({TABLE_KEY: fields.pop(TABLE_KEY, None) or []}, "frame").listing(TABLE_KEY, limits.MAX_TENSORS)
        by_name = {spec.name: spec for spec in map(TensorSpec.read, rows)}
        specs = tuple(by_name.values())
    return awaited.read(fields, specs), specs


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        value = documents.parse(body)
    except ValueError as error:
        raise MalformedRequest(f"no JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedRequest("no object")
    return value
