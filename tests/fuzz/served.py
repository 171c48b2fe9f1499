"""The JSON surface of a real server, asked by schemathesis what its own OpenAPI file says can be asked, and what it
says cannot.

The one rule: whatever is asked is answered with a status, a media type and a body that the file describes, and never
with a fault of the server's.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import load_all_checks
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.generation import GenerationMode

from leeway.protocol import routes
from leeway.protocol.frames import FORMAT_VERSION, HEADER, MAGIC
from leeway.protocol.http.headers import PREFER
from leeway.protocol.rights import Caller, Right
from leeway.transport.credentials import tokens
from leeway.transport.credentials.tokens import Entry
from tests.bench.processes import process, python
from tests.bench.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a stranger makes of a frame without reading its page: something with the right head, in which JSON stands.
schemathesis.serializer(routes.FRAME)(
    lambda _, value: HEADER.pack(MAGIC, FORMAT_VERSION, 0, 0, 0, 0, 0) + _bytes(value)
)

# There is no end of the stream of events; bodies that are no JSON have targets of their own.
_LEFT_OUT = (routes.EVENTS,)
# A frame, a safetensors file: schemathesis can make none, and none is a document.
_CHECKS = ("no_fault_of_ours", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


@schemathesis.check
def no_fault_of_ours(context: Any, response: Any, case: Any) -> None:
    """503 and 507 are answers: the server is not ready, or its disk is full."""
    assert response.status_code != 500, response.text


@dataclass(frozen=True, slots=True)
class Served:
    """`words`: for a page. `said`: what was found, empty where nothing was."""

    asked: int
    words: str
    said: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.said)


def ask(examples: int, seed: int, *, with_tokens: bool | None = None) -> Served:
    """So many examples, of right ones and of wrong ones together, for each operation. `with_tokens`: None for both: one
    server that asks for none, and one that does and is shown an admin's, then none.
    """
    asked, said, operations = 0, "", 0
    for secured in (False, True) if with_tokens is None else (with_tokens,):
        with server(secured=secured) as (serving, headers):
            for shown in (headers, {}) if secured else ({},):
                count, operations, found = _ask(serving.url, shown, examples, seed)
                asked += count
                said = said or found
            serving.process.check()
    how = "without tokens, with an admin's, and with none where one is asked for"
    words = (
        f"schemathesis asked {asked:,} requests of real servers: each of {operations} operations of the OpenAPI"
        f" file, {how}. All were answered as the file says, none with a fault of the server's."
    )
    return Served(asked, words, said)


@contextlib.contextmanager
def server(*, secured: bool) -> Iterator[tuple[Server, dict[str, str]]]:
    """A server that keeps state, and the headers of an admin who may be any worker."""
    with tempfile.TemporaryDirectory(prefix="leeway-fuzz-") as folder:
        headers = {}
        flags = ["--mode", "async", "--state-dir", f"{folder}/state", "--lease", "5"]
        if secured:
            token = f"{tokens.PREFIX}{secrets.token_urlsafe(32)}"
            caller = Caller("boss", frozenset({Right.ADMIN, Right.WORKER}))
            path = Path(folder) / "tokens.toml"
            path.touch(0o600)
            path.write_text(tokens.written([Entry(caller, tokens.digest(token))]))
            flags += ["--tokens", str(path)]
            headers = {"Authorization": f"Bearer {token}"}
        command = python("leeway.ps.cli", "--port", "0", "--log-level", "warning", *flags)
        with process(command, threads=1) as started:
            yield Server(started), headers


def _ask(url: str, headers: dict[str, str], examples: int, seed: int) -> tuple[int, int, str]:
    load_all_checks()
    checks = schemathesis.checks.CHECKS.get_by_names(_CHECKS)
    schema = schemathesis.openapi.from_url(f"{url}{routes.OPENAPI}")
    schema.config.base_url = url
    asked = operations = 0
    said = []
    for found in schema.exclude(path=list(_LEFT_OUT)).get_all_operations():
        operation = found.ok()
        operations += 1
        for mode in GenerationMode:
            try:
                cases = operation.as_strategy(generation_mode=mode)
                asked += _each(cases, headers, max(1, examples // 2), seed, checks)
            except (Failure, FailureGroup, AssertionError) as failure:
                said.append(f"{operation.method.upper()} {operation.path}: {_shown(failure)}")
    return asked, operations, "\n".join(said)


def _each(cases: Any, headers: dict[str, str], examples: int, seed: int, checks: Any) -> int:
    count = 0

    @seeded(seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def one(case: Any) -> None:
        nonlocal count
        count += 1
        if case.headers and str(case.headers.get(PREFER, "")).startswith("wait="):
            case.headers[PREFER] = "wait=0.1"  # it may well be 300
        case.call_and_validate(headers=headers, checks=checks, timeout=30)

    with contextlib.suppress(Unsatisfiable):  # nothing can be wrong in a request that takes nothing
        one()
    return count


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, default=str).encode()


def _shown(failure: BaseException) -> str:
    if isinstance(failure, FailureGroup):
        return "\n".join(str(one) for one in failure.exceptions)
    return str(failure)
