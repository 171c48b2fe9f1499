"""What carries requests to a server: a seam, with HTTP (`leeway.transport.http.exchange`) on the other side of it.

The one rule: a channel ends each request in an `Answer`, in `Lost`, or in a `SettingError`, and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from leeway.protocol.barriers import Barrier
from leeway.protocol.handovers import Handover
from leeway.protocol.membership import Heartbeat, Join, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push
from leeway.protocol.tuning import SetOptimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.protocol.decoder import Allocate
    from leeway.protocol.frames import Buffer, Frame
    from leeway.protocol.messages import Reply
    from leeway.protocol.spans import Layout

Sent = Join | Leave | Heartbeat | Offer | Pull | Push | Barrier | SetOptimizer | Handover


@dataclass(frozen=True, slots=True)
class Tensors:
    """A body: what lies in `layout`, cut into contiguous buffers anywhere, padding (zeros) included. `values`: as in
    `Push`.

    The buffers must stay as they are until the request that carries them has had its end.
    """

    layout: Layout
    buffers: Sequence[Buffer]
    values: tuple[str, ...] = ()


@dataclass(slots=True)
class Traffic:
    """Seconds and bytes of one exchange, or of several added up.

    `send`: until the last byte was handed to the socket; `wait`: from there until the reply's first; `receive`:
    until its last.
    """

    send_seconds: float = 0.0
    wait_seconds: float = 0.0
    receive_seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0

    def copy(self) -> Traffic:
        return replace(self)

    def add(self, other: Traffic) -> None:
        self.send_seconds += other.send_seconds
        self.wait_seconds += other.wait_seconds
        self.receive_seconds += other.receive_seconds
        self.sent_bytes += other.sent_bytes
        self.received_bytes += other.received_bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, with the tensors that came along. `retry_after_seconds`: the server's wish."""

    reply: Reply
    traffic: Traffic
    frame: Frame | None = None
    retry_after_seconds: float | None = None


class Channel(Protocol):
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
