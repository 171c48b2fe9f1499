"""A secret that both sides of an exchange know: how it travels, and how it is compared.

The one rule: it is in one header and nowhere else, in no address, body, error or log.
"""

from __future__ import annotations

import hmac
import re

from aiohttp import hdrs

# What may stand behind `Bearer` (RFC 6750, 2.1).
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class Bearer:
    """`Authorization: Bearer SECRET`. Raises `ValueError` for what cannot be written so."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        if not _TOKEN.fullmatch(secret):
            raise ValueError("a secret must be 1 or more of the letters, digits and -._~+/, with = at its end alone")
        self._secret = secret

    def __repr__(self) -> str:
        return "Bearer(...)"

    @property
    def headers(self) -> dict[str, str]:
        return {hdrs.AUTHORIZATION: f"Bearer {self._secret}"}

    def admits(self, authorization: str | None) -> bool:
        """Whether the header's value has the secret. How long that takes tells nothing of it."""
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, self._secret.encode()) and scheme.lower() == "bearer"
