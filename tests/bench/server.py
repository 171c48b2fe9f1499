"""A real `ps-serve` process, and what it says about itself.

The one rule: it is started as a user starts it, by its command line, on a port that the system picks.
"""

from __future__ import annotations

import json
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.processes import process, python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

    from tests.bench.processes import Process

REQUEST_SECONDS = 30.0

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server:
    """Made by `server`."""

    def __init__(self, started: Process) -> None:
        self.process = started
        self.url = started.read_line()

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(fetch(f"{self.url}/v1/status")[0])
        return document

    def metrics(self) -> dict[str, float]:
        return metrics(f"{self.url}/metrics")


@contextmanager
def server(*flags: str, threads: int | None = None) -> Iterator[Server]:
    """`ps-serve` with these flags. `threads` limits its arithmetic; None leaves it as a user has it."""
    command = python("leeway.ps.cli", "--port", "0", "--log-level", "warning", *flags)
    with process(command, threads=threads) as started:
        yield Server(started)


def fetch(url: str, accept: str = "*/*") -> tuple[bytes, Message]:
    """Body and headers of a resource on this machine."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    with _opener.open(request, timeout=REQUEST_SECONDS) as response:
        return response.read(), response.headers


def metrics(url: str) -> dict[str, float]:
    """Every sample of a page of metrics by name, summed over its labels; buckets left out."""
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(fetch(url)[0].decode()):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return values


def mean(before: dict[str, float], after: dict[str, float], histogram: str) -> float:
    """The mean of what a histogram of the server counted between two readings; 0 when that is nothing."""
    total, count = (
        after.get(f"leeway_server_{histogram}_{part}", 0.0) - before.get(f"leeway_server_{histogram}_{part}", 0.0)
        for part in ("sum", "count")
    )
    return total / count if count else 0.0
