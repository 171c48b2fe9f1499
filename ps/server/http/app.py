"""The server's listener: what is asked of it, and that counting it cannot hurt it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.ps.server.http.handlers import Handlers
from leeway.transport.http.listener import Listener

if TYPE_CHECKING:
    from leeway.protocol.codes import Code
    from leeway.ps.server.http.sessions import Sessions
    from leeway.ps.server.runtime import Runtime
    from leeway.ps.server.saving import Saving
    from leeway.ps.watching.listeners import Listeners
    from leeway.ps.watching.metrics import ServerMetrics
    from leeway.transport.credentials.handshakes import ListenerContext
    from leeway.transport.http.gate import Gate


def listener(
    runtime: Runtime,
    saving: Saving,
    max_body_bytes: int,
    most_connections: int | None = None,
    *,
    gate: Gate,
    sessions: Sessions,
    tls: ListenerContext | None,
) -> Listener:
    counts = GuardedCounts(runtime.metrics, runtime.listeners)
    handlers = Handlers(runtime, saving, max_body_bytes, counts, gate, sessions)
    return Listener(
        handlers.table(),
        gate=gate,
        tls=tls,
        lease_seconds=runtime.machine.settings.lease_seconds,
        counts=counts,
        most_connections=most_connections,
        before_stop=handlers.events.hurry,
    )


class GuardedCounts:
    """The metrics as a listener's `Counts`: whatever they raise is a failure of telling, and of nothing else."""

    def __init__(self, metrics: ServerMetrics, listeners: Listeners) -> None:
        self._metrics = metrics
        self._listeners = listeners

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        with self._listeners.guard("metrics"):
            self._metrics.answered(route, method, status, seconds)

    def refused(self, route: str, code: Code) -> None:
        with self._listeners.guard("metrics"):
            self._metrics.refused(route, code)

    def received(self, route: str, size_bytes: int) -> None:
        with self._listeners.guard("metrics"):
            self._metrics.received(route, size_bytes)

    def sent(self, route: str, size_bytes: int) -> None:
        with self._listeners.guard("metrics"):
            self._metrics.sent(route, size_bytes)

    def body_aborted(self) -> None:
        with self._listeners.guard("metrics"):
            self._metrics.body_aborted()

    def connection_closed(self, reason: str) -> None:
        with self._listeners.guard("metrics"):
            self._metrics.connection_closed(reason)
