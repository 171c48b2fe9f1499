"""What carries a client's requests to its server: a seam, with HTTP on the other side of it.

The one rule: a channel ends each request in an `Answer`, in `Lost`, or in a `SettingError`, and decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from leeway.protocol.decoder import Allocate
    from leeway.worker.exchange import Answer, Sent, Tensors


class Channel(Protocol):
    """`leeway.worker.exchange.Exchange` is one."""

    async def send(
        self,
        request: Sent,
        tensors: Tensors | None = None,
        *,
        max_body_bytes: int = ...,
        allocate: Allocate | None = None,
        limit_seconds: float | None = None,
    ) -> Answer:
        """Send one request and receive its reply."""

    async def read_json(self, path: str, query: dict[str, str]) -> Any:
        """Get a document."""

    async def close(self) -> None:
        """Let go of what it holds. What is under way fails as `Lost`."""
