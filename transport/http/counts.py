"""What a listener counts, and where: the server has metrics for it, a worker need not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from leeway.protocol.codes import Code


class Counts(Protocol):
    """`route`: a template of `leeway.protocol.routes`, never the path asked for. None of these may raise: what is
    counted is no reason to leave a client without its answer."""

    def answered(self, route: str, method: str, status: int, seconds: float) -> None: ...

    def refused(self, route: str, code: Code) -> None: ...

    def received(self, route: str, size_bytes: int) -> None: ...

    def sent(self, route: str, size_bytes: int) -> None: ...

    def body_aborted(self) -> None:
        """Its sender went away in the middle of it."""

    def connection_closed(self, reason: str) -> None:
        """We have closed one."""


class Uncounted:
    """Counts nothing."""

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        pass

    def refused(self, route: str, code: Code) -> None:
        pass

    def received(self, route: str, size_bytes: int) -> None:
        pass

    def sent(self, route: str, size_bytes: int) -> None:
        pass

    def body_aborted(self) -> None:
        pass

    def connection_closed(self, reason: str) -> None:
        pass
