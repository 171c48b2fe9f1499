"""What it means when an exchange fails: it may pass, or it never will. A table with the reasons.

The one rule: what may pass is `Lost`, and is tried again for as long as the worker has patience; what the same request
would meet again is a `SettingError` at once, in a sentence that says what to look at.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass

import aiohttp

from leeway.errors import BodyTooLarge, SettingError, WireError
from leeway.transport.credentials import distrust


class Lost(Exception):
    """No reply, or none that can be read: the request may or may not have been heard."""


@dataclass(frozen=True, slots=True)
class _Row:
    errors: tuple[type[BaseException], ...]
    passes: bool
    words: str


# The first row that fits counts: those that never pass come before the families that they belong to.
_TABLE = (
    # The other side closed in the middle of the handshake: it is starting or stopping.
    _Row((ssl.SSLEOFError, ssl.SSLZeroReturnError), True, "no connection to {url}: {error}"),
    # The two sides do not speak TLS with each other: https where http is served, versions that do not meet.
    _Row(
        (ssl.SSLError, aiohttp.ClientSSLError),
        False,
        "{url} does not speak TLS as this side does, is it http:// there? {error}",
    ),
    _Row((aiohttp.InvalidURL,), False, "{url} is no address: {error}"),
    # A connection that breaks off is another error, so these bytes were meant: another protocol is served there.
    _Row((aiohttp.ClientResponseError,), False, "{url} does not answer in HTTP/1.1, is that a Leeway server? {error}"),
    # Busy, stopped by a debugger, on the other side of a cut cable.
    _Row((TimeoutError,), True, "{url} was silent for too long: {error}"),
    # Refused, reset, unreachable, a name that is not known yet, a reply that broke off.
    _Row((aiohttp.ClientError, OSError), True, "no connection to {url}: {error}"),
    _Row((BodyTooLarge,), False, "the reply of {url} is too large for this side: {error}"),
    # It came as a whole, so it would come again: a page of another server, or another version of this program.
    _Row(
        (WireError, ValueError, TypeError, LookupError, RecursionError),
        False,
        "the reply of {url} cannot be read, is that a Leeway server of this version? {error}",
    ),
)

FAILURES = tuple({error for row in _TABLE for error in row.errors})


def judge(error: BaseException, url: str) -> Lost | SettingError:
    """What to raise in place of one of `FAILURES`."""
    # Nobody but its owner mends a certificate, and no proxy serves another one for a while.
    if distrusted := distrust.in_words(error, url):
        return SettingError(distrusted)
    cause = error.__cause__ or error.__context__
    handshake = isinstance(error, aiohttp.ClientConnectorSSLError) and isinstance(cause, ssl.SSLError)
    known = cause if handshake else error
    row = next(row for row in _TABLE if isinstance(known, row.errors))
    words = row.words.format(url=url, error=_in_words(error))
    return Lost(words) if row.passes else SettingError(words)


def _in_words(error: BaseException) -> str:
    """What the system says of it, where it is the system's: a library's own words say more of the library."""
    if isinstance(error, WireError):
        return error.detail
    said = str(error)
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ssl.SSLError):
        return (getattr(cause, "reason", None) or str(cause)).lower().replace("_", " ")
    if isinstance(cause, OSError) and not isinstance(error.__cause__, ssl.SSLError):
        said = os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause.strerror or said
    return said or ("time limit" if isinstance(error, TimeoutError) else type(error).__name__)
