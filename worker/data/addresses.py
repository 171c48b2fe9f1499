"""Addresses that files are fetched from, and those of the proxies that the environment names.

The one rule: what is wrong with one is found before anybody is asked. Of a proxy the variable alone is told: its
address may have a password in it.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from leeway.protocol.addresses import is_host

# What aiohttp looks at, whatever the scheme of the address is.
_PROXIED = ("http", "https", "ws", "wss")


def is_address(text: str) -> bool:
    """Whether it is of http or https, with a host."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    seen = text.isprintable() and " " not in text
    return seen and parts.scheme in ("http", "https") and bool(host) and is_host(host or "")


def broken_proxy(address: str) -> str | None:
    """The variable that names a proxy for `address` which is none, if there is one."""
    if proxy_bypass(urlsplit(address).hostname or ""):
        return None
    proxies = getproxies()
    broken = (scheme for scheme in _PROXIED if scheme in proxies and not is_address(proxies[scheme]))
    return next((f"{scheme.upper()}_PROXY" for scheme in broken), None)
