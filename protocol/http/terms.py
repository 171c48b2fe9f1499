"""A request and a reply in HTTP's terms: what a driver has to move, and nothing of how.

The one rule: plain data, no bytes. A driver makes bytes of `fields` as `content` says, and puts the tensors beside
them in a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from leeway.protocol import routes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from leeway.protocol.requests import Request
    from leeway.protocol.tensors import TensorSpec


class Content(Enum):
    """What follows a head. The value is its media type."""

    NOTHING = None
    JSON = "application/json"
    PROBLEM = routes.PROBLEM
    FRAME = routes.FRAME


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """`route`: a template of `routes`; `places`: what stands in its braces. `headers`: those that belong to the
    message, several of one name joined by commas. `fields`: the JSON object, or the message of the frame.
    """

    method: str
    route: str
    places: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Content = Content.NOTHING
    fields: Mapping[str, Any] | None = None

    @property
    def path(self) -> str:
        return self.route.format(**self.places) if self.places else self.route


@dataclass(frozen=True, slots=True)
class Awaited:
    """A request whose head has been read and is in order: the content to receive next, and how both make the message.

    `read` takes the fields, and what the frame says of its tensors. `limit_bytes`: of JSON; a frame has the server's.
    """

    content: Content
    read: Callable[[Mapping[str, Any], tuple[TensorSpec, ...]], Request]
    limit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HttpReply:
    """`headers`: looked up as they are spelled here; a driver's own mapping may ignore the case. `fields`: as in
    `HttpRequest`; `Any`, because a peer's JSON may be anything."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content: Content = Content.NOTHING
    fields: Any = None
