"""Where a server is: the address that a user gives, checked, once for all who ask it for one.

The one rule: what is wrong with an address is said before anything is sent, in one sentence that says what to write.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from leeway.protocol.fields import shown

# Of a name in DNS, all its parts together.
MAX_HOST_BYTES = 253

NO_HOST = "which no host can have as its name: between dots there are 1 to 63 letters, digits and hyphens"


def server_url(text: str) -> str:
    """The server's address, checked, without a slash at its end. Raises `ValueError` that says what to write."""
    if not isinstance(text, str):
        raise ValueError(f"the server's address is {shown(text)}; it must be text such as http://localhost:8080")
    if not text.isprintable() or " " in text:
        raise ValueError(f"the server's address {shown(text)} has a space or a character that is not seen in it")
    if "://" not in text:
        raise ValueError(f"the server's address {shown(text)} has no scheme; write http://{text}")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"the server's address {shown(text)} is no URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"the server's address {shown(text)} has scheme {parts.scheme!r}; it must be http or https")
    if not host:
        raise ValueError(
            f"the server's address {shown(text)} has no host; it must be scheme, host, port and path, for example"
            " http://localhost:8080"
        )
    if not is_host(host):
        raise ValueError(f"the server's address {shown(text)} has the host {shown(host)}, {NO_HOST}")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"the server's address {shown(text)} must be scheme, host, port and path alone")
    return text.rstrip("/")


def is_host(text: str) -> bool:
    """Whether this can be the name of a host, or a number of one: not whether there is such a host."""
    try:
        # What the system's own look-up does first, and fails at with other words.
        encoded = text.encode("idna")
    except UnicodeError:
        return False
    return 1 <= len(encoded) <= MAX_HOST_BYTES and text.isprintable() and " " not in text


def is_loopback(host: str) -> bool:
    """Whether nobody beyond this machine reaches what listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def in_the_clear(url: str) -> bool:
    """Whether what goes there can be read on its way."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")
