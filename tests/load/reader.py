"""Looks at a server as anybody may: its status, its metrics, its newest parameters; and switches it, as an owner may.

The one rule: what it downloads is kept as it came, with the moment at which it was there; nothing is computed from it
while the workers train.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from leeway.transport.credentials.credentials import Credentials
from tests.load.trials import Histogram

# The server answers all of this out of memory: what takes so long is not going to be answered.
TIMEOUT_SECONDS = 10.0

_SAFETENSORS = "application/vnd.safetensors"


class Refused(ValueError):
    """The server has understood a request and refused it. The message has its reason."""


class Reader:
    """`downloaded_bytes`: of parameters, so that they can be told from what the workers got.

    It shows what workers do: `PS_TOKEN_FILE` and so on; raises `SettingError` where that cannot be read. All requests
    raise `OSError` when the server cannot be reached, `Refused` when it refuses.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        shown = Credentials.chosen(os.environ)
        self.url = url
        self.downloaded_bytes = 0
        self._base = parts.path.rstrip("/")
        self._headers = shown.headers
        self._connection: HTTPConnection = (
            HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS, context=shown.to_client())
            if parts.scheme == "https"
            else HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        )
        self._etag = ""

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._ask("GET", "/v1/status")[2])
        return document

    def metrics(self) -> Metrics:
        return Metrics(self._ask("GET", "/metrics")[2].decode())

    def optimizer(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._ask("GET", "/v1/optimizer")[2])
        return document

    def put(self, path: str, fields: dict[str, Any]) -> None:
        self._ask("PUT", path, json.dumps(fields).encode())

    def download(self) -> tuple[int, bytes] | None:
        """The newest version's number and file; None when it is the one that was downloaded last."""
        headers = {"Accept": _SAFETENSORS} | ({"If-None-Match": self._etag} if self._etag else {})
        status, etag, body = self._ask("GET", "/v1/params", headers=headers)
        if status != 200:
            return None
        self._etag = etag
        self.downloaded_bytes += len(body)
        return int(etag.strip('"').rpartition(".")[2]), body

    def close(self) -> None:
        self._connection.close()

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str, bytes]:
        try:
            self._connection.request(method, self._base + path, body, {**self._headers, **(headers or {})})
            answer = self._connection.getresponse()
            said = answer.read()
        except HTTPException as error:
            self._connection.close()
            raise ConnectionError(f"{method} {path} was not answered: {error!r}") from error
        except OSError:
            self._connection.close()
            raise
        if answer.status >= 400:
            try:
                reason = json.loads(said).get("detail", "")
            except ValueError:
                reason = said[:200].decode(errors="replace")
            raise Refused(f"{method} {path}: {answer.status} {reason}")
        return answer.status, answer.getheader("ETag", ""), said


class Metrics:
    """A page of metrics in Prometheus' text form."""

    def __init__(self, text: str) -> None:
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def sum(self, name: str, **labels: str) -> float:
        """The sum over all series that have these labels; 0 without any."""
        return sum(value for own, value in self._samples[name] if labels.items() <= own.items())

    def histogram(self, name: str, **labels: str) -> Histogram:
        """All series that have these labels in one."""
        up_to: dict[float, float] = defaultdict(float)
        for own, value in self._samples[f"{name}_bucket"]:
            if labels.items() <= own.items():
                up_to[float(own["le"])] += value
        bounds = sorted(up_to)
        cumulative = [0.0, *(up_to[bound] for bound in bounds)]
        counts = tuple(int(later - earlier) for earlier, later in pairwise(cumulative))
        return Histogram(tuple(bounds[:-1]), counts, self.sum(f"{name}_sum", **labels))
