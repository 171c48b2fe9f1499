"""Everything that can go wrong on the wire: one small tree, each error with a stable code and an HTTP status.

The one rule: a peer's bytes end in a message or in a `WireError`, never in anything else. Errors travel as
problem documents (RFC 9457); `code` is the stable part, `detail` is for people and says what to do.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Stable names of errors. Part of the contract: never rename one, never reuse one."""

    MALFORMED_FRAME = "malformed-frame"
    MALFORMED_REQUEST = "malformed-request"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    NOT_ACCEPTABLE = "not-acceptable"
    OLD_EPOCH = "old-epoch"
    NOT_JOINED = "not-joined"
    SUPERSEDED = "superseded"
    NOT_GRANTED = "not-granted"
    WRONG_CLOCK = "wrong-clock"
    FENCED = "fenced"
    SCHEMA_CONFLICT = "schema-conflict"
    SCHEMA_CLOSED = "schema-closed"
    NO_STATE_DIR = "no-state-dir"
    EVICTED = "evicted"
    LEFT = "left"
    FINISHED = "finished"
    BODY_TOO_LARGE = "body-too-large"
    UNSUPPORTED_MEDIA = "unsupported-media"
    UNKNOWN_TENSOR = "unknown-tensor"
    WRONG_TENSOR = "wrong-tensor"
    DUPLICATE_TENSOR = "duplicate-tensor"
    NON_FINITE = "non-finite"
    UNKNOWN_GROUP = "unknown-group"
    INCONSISTENT_PARTS = "inconsistent-parts"
    INVALID_VALUE = "invalid-value"
    STOPPING = "stopping"
    BUSY = "busy"
    INTERNAL = "internal"


STATUS: dict[Code, int] = {
    Code.MALFORMED_FRAME: 400,
    Code.MALFORMED_REQUEST: 400,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.NOT_ACCEPTABLE: 406,
    Code.OLD_EPOCH: 409,
    Code.NOT_JOINED: 409,
    Code.SUPERSEDED: 409,
    Code.NOT_GRANTED: 409,
    Code.WRONG_CLOCK: 409,
    Code.FENCED: 409,
    Code.SCHEMA_CONFLICT: 409,
    Code.SCHEMA_CLOSED: 409,
    Code.NO_STATE_DIR: 409,
    Code.EVICTED: 410,
    Code.LEFT: 410,
    Code.FINISHED: 410,
    Code.BODY_TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA: 415,
    Code.UNKNOWN_TENSOR: 422,
    Code.WRONG_TENSOR: 422,
    Code.DUPLICATE_TENSOR: 422,
    Code.NON_FINITE: 422,
    Code.UNKNOWN_GROUP: 422,
    Code.INCONSISTENT_PARTS: 422,
    Code.INVALID_VALUE: 422,
    Code.STOPPING: 503,
    Code.BUSY: 503,
    Code.INTERNAL: 500,
}


class WireError(Exception):
    """An error with a code, told to the peer as a problem document.

    `facts` are the machine-readable members of the document (for example the clock the server expects).
    """

    def __init__(self, code: Code, detail: str, /, **facts: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.facts = facts

    @property
    def status(self) -> int:
        return STATUS[self.code]

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    def to_document(self) -> dict[str, Any]:
        """The RFC 9457 problem document, as a JSON-ready mapping."""
        return {
            **self.facts,
            "type": f"urn:leeway:problem:{self.code}",
            "title": self.code.replace("-", " "),
            "status": self.status,
            "code": str(self.code),
            "detail": self.detail,
        }

    @classmethod
    def from_document(cls, document: object, status: int) -> WireError:
        """Read a problem document from a peer. Anything unreadable becomes `INTERNAL`, never a crash."""
        if not isinstance(document, dict):
            return cls(Code.INTERNAL, f"the peer answered HTTP {status} without a problem document")
        facts = {
            str(key): value
            for key, value in document.items()
            if key not in {"type", "title", "status", "code", "detail"}
        }
        try:
            code = Code(str(document.get("code")))
        except ValueError:
            code = Code.INTERNAL
        return cls(code, str(document.get("detail", f"HTTP {status}")), **facts)


class MalformedFrame(WireError):
    """Bytes that are no frame: wrong magic, truncated, lengths that do not add up (HTTP 400)."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.MALFORMED_FRAME, detail)


class MalformedRequest(WireError):
    """A request whose fields are missing, of the wrong type or out of range (HTTP 400)."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.MALFORMED_REQUEST, detail)


class BodyTooLarge(WireError):
    """A body over the limit, declared or counted while streaming (HTTP 413)."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.BODY_TOO_LARGE, detail)
