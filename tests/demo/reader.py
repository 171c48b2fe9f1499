"""Looks at a running server as anybody may: its status, and its newest parameters as a safetensors file.

The one rule: a version is downloaded once and kept as it came; nothing is computed from it while the workers train.
"""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

# The server answers both requests out of memory: one that takes this long is not going to be answered.
TIMEOUT_SECONDS = 10.0


class Reader:
    """`versions`: each downloaded file by the number of its version."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        self._etag = ""
        self.versions: dict[int, bytes] = {}

    def status(self) -> dict[str, Any]:
        """Ask for the state of the run. Raises `OSError` when the server cannot be reached."""
        _, _, body = self._get("/v1/status", {})
        told: dict[str, Any] = json.loads(body)
        return told

    def download(self) -> None:
        """Keep the newest version, unless it is the last one that was kept or there is none yet.

        Raises `OSError` when the server cannot be reached.
        """
        headers = {"Accept": "application/vnd.safetensors"}
        if self._etag:
            headers["If-None-Match"] = self._etag
        status, etag, body = self._get("/v1/params", headers)
        if status == 200:
            self._etag = etag
            self.versions[version_number(etag)] = body

    def close(self) -> None:
        self._connection.close()

    def _get(self, path: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
        try:
            self._connection.request("GET", path, headers=headers)
            answer = self._connection.getresponse()
            body = answer.read()
        except HTTPException as error:
            self._connection.close()
            raise ConnectionError(f"GET {path} was not answered: {error!r}") from error
        if answer.status >= 400:
            raise ConnectionError(f"GET {path} was refused with {answer.status}: {body.decode(errors='replace')}")
        return answer.status, answer.getheader("ETag", ""), body


def version_number(etag: str) -> int:
    """The number in an ETag `"epoch.number"`."""
    return int(etag.strip('"').rpartition(".")[2])
