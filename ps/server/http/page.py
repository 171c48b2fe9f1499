"""The live page at `/`: the files of `ps/page`, as they lie in the package.

The one rule: the page is all that a browser needs, and all that it is allowed. Nothing is fetched from, or told to, any
other server; a script that came in by another way is not run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from aiohttp import ETag, hdrs, web

from leeway.errors import WireError
from leeway.protocol import routes
from leeway.protocol.codes import Code

if TYPE_CHECKING:
    from collections.abc import Mapping

INDEX = "index.html"

# What may be served, by the end of its name. The index has a route of its own.
CONTENT_TYPES: Mapping[str, str] = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

# `data:` is for the icon, which is an image of a few bytes in the index.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)

# Kept by the browser, but asked for each time: after an upgrade nobody sees yesterday's page on today's server.
_HEADERS = {
    hdrs.CACHE_CONTROL: "no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    content_type: str
    etag: str


class Page:
    """The files are read once, when it is made; what is not among them then is not found."""

    def __init__(self) -> None:
        self._files = {
            entry.name: _File(content := entry.read_bytes(), content_type, hashlib.sha256(content).hexdigest()[:16])
            for entry in resources.files("leeway.ps.page").iterdir()
            if (content_type := CONTENT_TYPES.get(PurePosixPath(entry.name).suffix))
        }

    async def index(self, request: web.Request) -> web.StreamResponse:
        return self._answer(request, INDEX)

    async def file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        if name == INDEX or name not in self._files:
            raise WireError(Code.NOT_FOUND, f"the page has no file {name[:80]!r}; it begins at {routes.PAGE}")
        return self._answer(request, name)

    def _answer(self, request: web.Request, name: str) -> web.StreamResponse:
        file = self._files[name]
        known = request.if_none_match or ()
        if any(tag.value in (file.etag, "*") for tag in known):
            response = web.Response(status=304, headers=_HEADERS)
        else:
            response = web.Response(body=file.content, headers=_HEADERS)
            response.content_type = file.content_type
            response.charset = "utf-8"
        response.etag = ETag(file.etag)
        return response
