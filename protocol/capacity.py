"""How much a server takes and sends, as a join tells it: what is larger can never succeed, so it is not tried.

The one rule: a client judges sizes by what its server said, never by constants of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leeway.protocol import limits
from leeway.protocol.fields import Fields


@dataclass(frozen=True, slots=True)
class Capacity:
    """`max_body_bytes`: of the tensors in one frame, either way (the server's `--max-body`).

    `max_schema_bytes`: of a JSON document that lists tensors, either way.
    """

    max_body_bytes: int = limits.DEFAULT_MAX_BODY_BYTES
    max_schema_bytes: int = limits.MAX_REPLY_JSON_BYTES

    @classmethod
    def read(cls, value: object) -> Capacity:
        fields = Fields(value, "limits")
        return cls(fields.integer("max_body_bytes", 1), fields.integer("max_schema_bytes", 1))

    def to_fields(self) -> dict[str, Any]:
        return {"max_body_bytes": self.max_body_bytes, "max_schema_bytes": self.max_schema_bytes}


DEFAULT_CAPACITY = Capacity()
"""Of a server that does not say."""
