"""What a listener counts, and where: the server has metrics for it, a worker need not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from leeway.protocol.codes import Code


class Counts(Protocol):
    """`route`: a template of `leeway.protocol.routes`, never the path asked for."""

    def answered(self, route: str, method: str, status: int, seconds: float) -> None: ...

    def refused(self, route: str, code: Code) -> None: ...

    def connection_closed(self, reason: str) -> None:
        """We have closed one."""
