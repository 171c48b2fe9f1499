"""Requests as text, so that what is fuzzed is what people can read:

    POST /v1/workers?a=b
    Prefer: wait=5

    {"rank": "w0"}

The one rule: any bytes are a request, if a senseless one; nothing is refused before the mapping sees it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from leeway.protocol import routes
from leeway.protocol.http.headers import ACCEPT, IF_NONE_MATCH, PREFER
from leeway.protocol.http.terms import HttpRequest
from tests.fuzz import trees

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

_TEMPLATES = [
    (template, re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", template)))
    for name, template in vars(routes).items()
    if name.isupper() and str(template).startswith("/")
]
_HEADERS = {name.lower(): name for name in (ACCEPT, PREFER, IF_NONE_MATCH)}


@dataclass(frozen=True, slots=True)
class Text:
    """A request, and the bytes of its body."""

    head: HttpRequest
    body: bytes = b""

    @classmethod
    def of(cls, data: bytes) -> Text:
        first, _, body = data.partition(b"\n\n")
        line, *lines = first.decode("utf-8", "surrogateescape").split("\n")
        method, _, target = line.partition(" ")
        path, _, query = target.partition("?")
        headers = {}
        for name, _, value in (row.partition(":") for row in lines):
            headers[_HEADERS.get(name.strip().lower(), name)] = value.strip()
        route, places = _route(path)
        pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape", max_num_fields=100_000)
        # A field that is given twice counts as it was given first.
        return cls(HttpRequest(method, route, places, dict(reversed(pairs)), headers), body)

    def written(self) -> bytes:
        head = self.head
        path = head.route
        for name, value in head.places.items():
            path = path.replace(f"{{{name}}}", quote(value, safe="", errors="surrogateescape"))
        query = urlencode(head.query, errors="surrogateescape")
        lines = [f"{head.method} {path}{'?' * bool(query)}{query}"]
        lines += [f"{name}: {value}" for name, value in head.headers.items()]
        return "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n\n" + self.body


def _route(path: str) -> tuple[str, dict[str, str]]:
    for template, pattern in _TEMPLATES:
        if match := pattern.fullmatch(path):
            return template, {
                name: unquote(value, errors="surrogateescape") for name, value in match.groupdict().items()
            }
    return path, {}


def text(method: str, target: str, fields: Any = None, **headers: str) -> bytes:
    lines = [f"{method} {target}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\n".join(lines).encode() + b"\n\n" + (b"" if fields is None else json.dumps(fields).encode())


def mutated(data: bytes, chance: Random, words: Sequence[str]) -> bytes | None:
    """Another query, or another body that is JSON as well."""
    request = Text.of(data)
    if not request.body or chance.random() < 0.3:
        query = trees.changed(dict(request.head.query), chance, words)
        if isinstance(query, dict):
            query = {name: str(value) for name, value in query.items()}
            return Text(request.head._replace(query=query), request.body).written()
        return None
    try:
        body = json.dumps(trees.changed(json.loads(request.body), chance, words))
    except (ValueError, RecursionError):
        return None
    return Text(request.head, body.encode()).written()
