"""How a listener refuses who does not come as its TLS asks: the other side hears why, and so does the log.

The one rule: a refusal is told before the connection is closed. asyncio and uvloop close it without sending the alert
that OpenSSL has written: whoever shows no certificate would see a lost connection, and try again for as long as it has
patience.
"""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

# For how long a connection may take to be one of TLS, and one that is refused to hear so and go.
HANDSHAKE_SECONDS: Final = 10.0

# Between two lines of the log about the same: whoever comes may come ten thousand times.
QUIET_SECONDS: Final = 60.0

# What OpenSSL says when it reads HTTP where a handshake should be.
_HTTP: Final = ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST")


class Refusals:
    """Tells the log, each kind at once and then at most once in `QUIET_SECONDS`, with how many there were."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._untold: dict[str, int] = {}
        self._quiet_until: dict[str, float] = {}
        self._log = structlog.get_logger("leeway.tls")

    def tell(self, kind: str, detail: str) -> None:
        count = self._untold[kind] = self._untold.get(kind, 0) + 1
        now = self._clock()
        if now < self._quiet_until.get(kind, now):
            return
        self._quiet_until[kind] = now + QUIET_SECONDS
        del self._untold[kind]
        self._log.warning("a connection was refused", reason=kind, detail=detail, times=count)


class ListenerContext(ssl.SSLContext):
    """Of a listener. `to_plain`: what is sent to who speaks http. `ends`: when the certificate does."""

    to_plain: bytes = b""
    ends: datetime | None = None

    def __init__(self, _: int) -> None:
        self.refusals = Refusals()

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *more: Any, **named: Any) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, *more, **named)
        assert isinstance(made, _Handshake)
        made.begin(self, incoming, outgoing)
        if self.ends is not None and self.ends < datetime.now(UTC):
            self.refusals.tell("ended", f"the certificate of this side has ended, at {self.ends:%Y-%m-%d %H:%M} UTC")
        return made

    def refuse(self, error: ssl.SSLError, outgoing: ssl.MemoryBIO) -> None:
        if error.reason in _HTTP:
            outgoing.write(self.to_plain)
        self.refusals.tell(*_in_words(error))


class _Handshake(ssl.SSLObject):
    """Of one connection. One that has failed is kept open, and what comes is read and forgotten, until the other side
    goes or the time is over: a socket that is closed with something unread takes back what was sent."""

    _failed = False

    def begin(self, context: ListenerContext, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._listener, self._incoming, self._outgoing = context, incoming, outgoing

    def do_handshake(self) -> None:
        if not self._failed:
            try:
                super().do_handshake()
                return
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError, ssl.SSLEOFError):
                raise
            except ssl.SSLError as error:
                self._listener.refuse(error, self._outgoing)
                if "ALERT" in (error.reason or ""):
                    raise  # the other side has refused, and waits for nothing
                self._failed = True
        self._incoming.read()
        # As if more were awaited: so what is to be sent is sent.
        raise ssl.SSLWantReadError


ListenerContext.sslobject_class = _Handshake


def _in_words(error: ssl.SSLError) -> tuple[str, str]:
    """Which kind of refusal it is, of few, and what the log says."""
    reason = error.reason or "no reason"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate", f"the certificate of a client is not to be trusted: {error.verify_message}"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "no certificate", "a client shows no certificate; it is given one with PS_TLS_CERT and PS_TLS_KEY"
    if reason in _HTTP:
        return "no tls", "a client speaks http: the address of this side begins with https://"
    if "ALERT" in reason:
        return "not trusted", f"a client refuses the certificate of this side: {reason.lower().replace('_', ' ')}"
    return "strange", f"a client does not speak TLS as this side does: {reason.lower().replace('_', ' ')}"
