"""Who gets in at this server: its certificate, the tokens that it takes, and both read anew while it runs.

The one rule: what cannot be read does not change who gets in: the old files go on to count, and this is said.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from leeway.errors import SettingError
from leeway.ps.server.http.app import listener
from leeway.ps.server.http.sessions import Sessions
from leeway.transport.credentials import tls
from leeway.transport.credentials.tls import KeyPair
from leeway.transport.credentials.tokens import Tokens
from leeway.transport.http.gate import Gate
from leeway.transport.quotas import Quotas

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.ps.server.runtime import Runtime
    from leeway.ps.server.saving import Saving
    from leeway.ps.settings.config import ServerConfig
    from leeway.ps.watching.metrics import ServerMetrics
    from leeway.transport.credentials.handshakes import ListenerContext
    from leeway.transport.http.listener import Listener

# A certificate that ends sooner is worth a warning.
WARN_DAYS = 7
_LOOK_SECONDS = 86_400.0

_log = structlog.get_logger("ps")


class Entrance:
    """Raises `SettingError` for files that are not as they should be."""

    def __init__(self, config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._pair = KeyPair(config.tls_cert, config.tls_key) if config.tls_cert and config.tls_key else None
        self._tls: ListenerContext | None = tls.for_listener(self._pair, config.tls_client_ca) if self._pair else None
        tokens = Tokens.read(config.tokens) if config.tokens else None
        self._ends = self._pair.ends() if self._pair else None
        self._metrics: ServerMetrics | None = None
        names = tls.names(self._pair.cert) if self._pair else ()
        self._sessions = Sessions(clock, secure=self._tls is not None)
        quotas = Quotas(clock, config.max_requests_per_second, config.max_bytes_per_second)
        self.gate = Gate(tokens, (*config.allowed_hosts, config.host, *names), self._sessions, quotas)

    def listener(self, runtime: Runtime, saving: Saving, most_connections: int | None = None) -> Listener:
        self._metrics = runtime.metrics
        self._tell_end()
        return listener(
            runtime,
            saving,
            self._config.max_body_bytes,
            most_connections,
            gate=self.gate,
            sessions=self._sessions,
            tls=self._tls,
        )

    def warn(self, address: str) -> None:
        """What somebody should know before the first worker comes."""
        config = self._config
        if config.is_insecure:
            detail = "whoever reaches this address owns the model: give --tokens, or --tls-client-ca"
            _log.warning("anybody gets in", address=address, detail=detail)
        if config.tokens is not None and self._tls is None and not config.is_loopback:
            detail = "tokens and parameters can be read by whoever sees the network: give --tls-cert and --tls-key"
            _log.warning("unencrypted", address=address, detail=detail)
        self._warn_of_end()

    def read_again(self) -> None:
        """At SIGHUP."""
        config = self._config
        try:
            tokens = Tokens.read(config.tokens) if config.tokens else None
            if self._pair is not None and self._tls is not None:
                ends = self._pair.ends()
                self._pair.load(self._tls)
                self._ends = ends
        except SettingError as error:
            _log.error("the old tokens and certificates go on to count", detail=str(error))
            return
        if tokens is not None:
            self.gate.take(tokens)
        count = len(tokens.entries) if tokens else None
        self._tell_end()
        _log.info("tokens and certificate were read anew", tokens=count, certificate=str(config.tls_cert or ""))
        self._warn_of_end()

    async def watch(self, every_seconds: float = _LOOK_SECONDS) -> None:
        """Say in time that the certificate ends: a run may be longer than a certificate is good."""
        while True:
            await asyncio.sleep(every_seconds)
            self._warn_of_end()

    @property
    def certificate_ends_in_seconds(self) -> float | None:
        """Of the one that is shown; None: none is."""
        return (self._ends - tls.now()).total_seconds() if self._ends else None

    def _tell_end(self) -> None:
        if self._ends is not None and self._metrics is not None:
            self._metrics.certificate_ends(self._ends.timestamp())

    def _warn_of_end(self) -> None:
        seconds = self.certificate_ends_in_seconds
        if seconds is not None and seconds < WARN_DAYS * 86_400:
            words = f"it ends in {seconds / 86_400:.1f} days" if seconds > 0 else "it has ended"
            detail = f"{words}: ps-keys renew makes another, and SIGHUP has this server take it"
            _log.warning("the certificate ends", certificate=str(self._config.tls_cert), detail=detail)
