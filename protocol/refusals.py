"""No, with the reason: a refusal is a reply too.

A `Refused` carries the `WireError` that the peer gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leeway.errors import WireError

if TYPE_CHECKING:
    from leeway.protocol.codes import Code


@dataclass(frozen=True, slots=True)
class Refused:
    """No. The error says why and what to do; nothing was changed."""

    error: WireError

    def __str__(self) -> str:
        return str(self.error)

    @classmethod
    def read(cls, value: object, status: int) -> Refused:
        """Of a problem document that came with this HTTP status, or names it itself."""
        return cls(WireError.from_document(value, status))

    def to_fields(self) -> dict[str, Any]:
        return self.error.to_document()


def refuse(code: Code, detail: str, **facts: Any) -> Refused:
    """A refusal with its code, words for people, and facts for the client."""
    return Refused(WireError(code, detail, **facts))
