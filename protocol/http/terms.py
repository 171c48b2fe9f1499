"""A request and a reply in HTTP's terms: what a driver has to move, and nothing of how.

The one rule: plain data, no bytes. A driver makes bytes of `fields` as `content` says, and puts the tensors beside
them in a frame. Named tuples, because each push and pull makes five: a frozen dataclass takes four times as long.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from leeway.protocol import routes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from leeway.protocol.messages import Request
    from leeway.protocol.tensors import TensorSpec

NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Content(Enum):
    """What follows a head. The value is its media type."""

    NOTHING = None
    JSON = "application/json"
    PROBLEM = routes.PROBLEM
    FRAME = routes.FRAME


class HttpRequest(NamedTuple):
    """`route`: a template of `routes`; `places`: what stands in its braces. `headers`: those that belong to the
    message, several of one name joined by commas. `fields`: the JSON object, or the message of the frame.
    """

    method: str
    route: str
    places: Mapping[str, str] = NONE
    query: Mapping[str, str] = NONE
    headers: Mapping[str, str] = NONE
    content: Content = Content.NOTHING
    fields: Mapping[str, Any] | None = None

    @property
    def path(self) -> str:
        return self.route.format(**self.places) if self.places else self.route


class Awaited(NamedTuple):
    """A request whose head has been read and is in order: the content to receive next, and how both make the message.

    `read` takes the fields, and what the frame says of its tensors. `limit_bytes`: of JSON; a frame has the server's.
    """

    content: Content
    read: Callable[[Mapping[str, Any], tuple[TensorSpec, ...]], Request]
    limit_bytes: int = 0


class HttpReply(NamedTuple):
    """`headers`: looked up as they are spelled here; a driver's own mapping may ignore the case. `fields`: as in
    `HttpRequest`; `Any`, because a peer's JSON may be anything."""

    status: int
    headers: Mapping[str, str] = NONE
    content: Content = Content.NOTHING
    fields: Any = None
