"""Where a server is: the address that a user gives, checked, once for all who ask it for one.

The one rule: what is wrong with an address is said before anything is sent, in one sentence that says what to write.
"""

from __future__ import annotations

from urllib.parse import urlsplit


def server_url(text: str) -> str:
    """The server's address, checked, without a slash at its end. Raises `ValueError` that says what to write."""
    if "://" not in text:
        raise ValueError(f"the server's address {text!r} has no scheme; write http://{text}")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"the server's address {text!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"the server's address {text!r} has scheme {parts.scheme!r}; it must be http or https")
    if not host:
        raise ValueError(
            f"the server's address {text!r} has no host; it must be scheme, host, port and path, for example"
            " http://localhost:8080"
        )
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"the server's address {text!r} must be scheme, host, port and path alone")
    return text.rstrip("/")
