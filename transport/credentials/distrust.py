"""That one side does not take the other's certificate, said to people.

The one rule: such a failure does not pass by itself, and says which file of which side is to be another one.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Of OpenSSL (x509_vfy.h). What is not here is said in its own words alone.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_UNKNOWN_ISSUERS: Final = (2, 18, 19, 20, 21)
_OTHER_NAMES: Final = (62, 64)

# In the reasons of alerts with which the other side refuses a certificate (RFC 8446, 6.2).
_REFUSING: Final = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")


def in_words(error: BaseException, url: str) -> str | None:
    """A sentence for the side that has connected to `url`; None: this is another failure."""
    for cause in _causes(error):
        reason = getattr(cause, "reason", None) or ""  # aiohttp's own errors of TLS are without one
        if isinstance(cause, ssl.SSLCertVerificationError) and hasattr(cause, "verify_message"):
            said = cause.verify_message.removesuffix(".")
            return f"the certificate of {url} is not to be trusted: {said}; {_advice(cause.verify_code)}"
        if isinstance(cause, ssl.SSLError) and _refuses(reason):
            said = reason.partition("ALERT_")[2].lower().replace("_", " ")
            return f"{url} does not take the certificate of this side: {said}; {_own_advice(said)}"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _refuses(reason: str) -> bool:
    return "ALERT" in reason and any(word in reason for word in _REFUSING)


def _advice(code: int) -> str:
    if code == _EXPIRED:
        return "whoever runs it has to renew it (ps-keys renew)"
    if code == _NOT_YET_VALID:
        return "are the clocks of both machines right?"
    if code in _OTHER_NAMES:
        return "connect by a name that it is for, or have one made for this name (ps-keys make --server)"
    if code in _UNKNOWN_ISSUERS:
        return "where its authority is one of your own, say which: PS_TLS_CA is the file with it"
    return "whoever runs it has to make another"


def _own_advice(said: str) -> str:
    if said == "certificate required":
        return "give one with PS_TLS_CERT, and its key with PS_TLS_KEY"
    if said == "certificate expired":
        return "renew it (ps-keys renew)"
    return "PS_TLS_CERT must be of an authority that is known there"
