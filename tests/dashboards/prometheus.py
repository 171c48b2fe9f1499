"""A real Prometheus for a test: started with a configuration, asked over its HTTP API, ended.

The one rule: everything is waited for with a deadline, and a port that somebody else took first is no failure.
"""

import json
import math
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress

import yaml

from tests.end_to_end.commands import Process

START_SECONDS = 60.0
ATTEMPTS = 5
_PAUSE_SECONDS = 0.05


def until(condition, seconds, what):
    """Wait until `condition()` is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(_PAUSE_SECONDS)


class Prometheus:
    """Started with `configuration`, whose relative paths are below `folder`. A context manager."""

    def __init__(self, program, folder, configuration):
        self._program = program
        self._folder = folder
        self._process = None
        self.url = ""
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))

    def __enter__(self):
        for attempt in range(ATTEMPTS):
            if self._start(attempt):
                return self
        raise AssertionError(self._process.said)

    def __exit__(self, *_):
        self._process.end()

    def _start(self, attempt):
        # It cannot take a port of the system's choice itself, so another process may be quicker.
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [
            str(self._program),
            "--config.file=prometheus.yml",
            f"--storage.tsdb.path=data{attempt}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        self.url = f"http://127.0.0.1:{port}"
        self._process = Process("prometheus", command, {}, self._folder)
        until(lambda: self._process.popen.poll() is not None or self._ready(), START_SECONDS, "Prometheus is ready")
        if self._process.popen.poll() is None:
            return True
        self._process.end()
        assert "address already in use" in self._process.said, self._process.said
        return False

    def _ready(self):
        # Whoever took the port may answer, but not with this path.
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
            return answer.status == 200
        return False

    @property
    def said(self):
        return self._process.said

    def get(self, path, **fields):
        """The `data` of an answer of `/api/v1/...`. An error of a query fails the test with its words."""
        query = urllib.parse.urlencode(fields, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{fields}: {error.read().decode()}") from None

    def ask(self, expression, at=None):
        """An instant query: the series of its answer that have a number, as labels and value."""
        moment = {} if at is None else {"time": at}
        return [
            (one["metric"], float(one["value"][1]))
            for one in self.get("query", query=expression, **moment)["result"]
            if math.isfinite(float(one["value"][1]))
        ]

    def course(self, expression, start, end, step=1):
        """A query over a time: the series of its answer that have a number at some moment, by their labels."""
        found = self.get("query_range", query=expression, start=start, end=end, step=step)["result"]
        return [one["metric"] for one in found if any(math.isfinite(float(value)) for _, value in one["values"])]

    def values(self, label, selector, start, end):
        """What `label_values(selector, label)` of Grafana asks."""
        return self.get(f"label/{label}/values", **{"match[]": selector, "start": start, "end": end})

    def firing(self):
        """The labels of every alert that fires."""
        return [alert["labels"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"]
