"""Everything that Leeway raises for others to catch, in one tree.

    LeewayError
    ├── WireError                          a request was refused: a stable code, words, facts
    │   ├── MalformedFrame                 bytes that are no frame
    │   ├── MalformedRequest               a field is missing, of the wrong type or out of range
    │   └── BodyTooLarge                   a body over the limit
    ├── ServerLost (ConnectionError)       the server has been away for longer than the worker's patience
    └── for the user to mend, each of them a ValueError
        ├── SessionClosed                  a call of a session that is closed, or ended while it waited
        ├── SettingError                   a setting, or what it asks for, cannot be had
        ├── TaskError                      a task cannot be had as it was asked for
        ├── DataError                      a data file is missing, or not what its publisher describes
        ├── CheckpointError                a checkpoint cannot be read
        └── HistoryError                   a file is no history

Wrong arguments of a call are a plain `ValueError` or `TypeError`, as everywhere in Python.

A peer's bytes end in a message or in a `WireError`, never in anything else. It travels as a problem document
(RFC 9457); `code` is the stable part, `detail` is for people and says what to do.
"""

from __future__ import annotations

from typing import Any

from leeway.protocol.codes import STATUS, Code


class LeewayError(Exception):
    """The root of the tree."""


class WireError(LeewayError):
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


class ServerLost(LeewayError, ConnectionError):
    """The server has not been reached for longer than the worker's patience."""


class SessionClosed(LeewayError, ValueError):
    """The session or client is closed, or was ended by another thread, task or signal handler while the call waited."""


class SettingError(LeewayError, ValueError):
    """A setting is wrong, or what it asks for cannot be had. The message says in one line what to change."""


class TaskError(LeewayError, ValueError):
    """A task cannot be had as it was asked for; the message says what to change."""


class DataError(LeewayError, ValueError):
    """A data file is missing or is not what its publisher describes. The message says where to get it."""


class CheckpointError(LeewayError, ValueError):
    """A checkpoint that cannot be read, in one line that says what to do."""


class HistoryError(LeewayError, ValueError):
    """The file is no history. The message says where, and what is wrong."""
