"""Secrets are where they belong and nowhere else: a training in which everything is written, served and said that can
be, with refusals, a crash and stages; then all of it is searched for every token and key."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.end_to_end.commands import RUN_SECONDS
from tests.end_to_end.guarded import Cluster, flags_of
from tests.load.forks import warm_up
from tests.transport.credentials.clusters import Keys

pytestmark = pytest.mark.e2e

JSON = ("/v1/status", "/v1/policy", "/v1/optimizer", "/v1/checkpoints", "/v1/session")
PAGES = (*JSON, "/metrics", "/openapi.yaml", "/")
STAGES = ("--stages", 2, "--micro-batches", 2, "--cut", "2,1")

# Of a life: 64 hexadecimal digits. So have the digests of checkpoints, which are in this file alone.
SECRET = rb"\b[0-9a-f]{64}\b"
DIGESTS = "epoch.json"


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm_up()


@pytest.fixture
def keys(tmp_path_factory):
    # Beside what the run writes.
    return Keys(tmp_path_factory.mktemp("keys") / "cluster", ("w0", "w1", "w2", "w3"))


def events(cluster):
    """What the live page is told, until a state with workers has come."""
    request = urllib.request.Request(cluster.url + "/v1/events", headers=cluster.reader.credentials.headers)
    with urllib.request.urlopen(request, context=cluster.reader.credentials.to_client(), timeout=30) as stream:
        told = b""
        while b'"rank":"w0"' not in told:
            told += stream.read1(65536)
    return told


def process(pid):
    """What other users of the machine, and tools, see of a process."""
    return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


def secret_of_a_life(cluster):
    """As the only stage of a replica is told it."""
    cluster.reader.credentials = cluster.keys.credentials("w3")
    place = {"stage": 0, "stages": 1, "address": "https://127.0.0.1:9"}
    joined = cluster.reader.ask("POST", "/v1/workers", {"rank": "w3", "session": "s" * 32, "place": place})
    cluster.reader.credentials = cluster.keys.credentials("reader")
    assert re.fullmatch(SECRET, joined["replica"]["secret"].encode())
    return joined["replica"]["secret"]


def until(met):
    deadline = time.monotonic() + RUN_SECONDS
    while not met():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_secrets_are_nowhere_else(keys, tmp_path):
    before = os.umask(0)
    seen = {}
    secrets = keys.secrets()
    assert len(secrets) == 2 + 6 * 2
    try:
        state, history = tmp_path / "state", tmp_path / "history.jsonl"
        flags = ("--state-dir", state, "--history", history, "--log-level", "debug", "--until", 200)
        with Cluster(keys, tmp_path, *flags, "--lease", 60) as cluster:
            debug = ("--log-level", "debug")
            shown = {rank: flags_of(keys, rank) for rank in ("w0", "w1", "w2")}
            worker = cluster.work("w0", *debug, "--metrics-port", 0, "--pace", 0.01, shown=shown["w0"])
            (metrics,) = worker.lines()
            crashed = cluster.work("w1", *debug, "--model", "broken", shown=shown["w1"])
            stages = [
                cluster.work("w2", *debug, *STAGES, "--stage", n, shown=shown["w2"], name=f"w2.{n}") for n in (0, 1)
            ]
            until(lambda: {w["rank"] for w in cluster.reader.status()["workers"]} >= {"w0", "w2"})

            secrets["the secret of a life"] = secret_of_a_life(cluster)

            # Those who may not, in every way that a secret may travel.
            reader, admin = secrets["the token of reader"], secrets["the token of admin"]
            session = {"rank": secrets["the token of w0"], "session": "s" * 32}
            asked = [
                *(
                    ("GET", path + reader, None, {})
                    for path in ("/v1/status?token=", "/v1/params?keys=", "/", "/page/")
                ),
                ("GET", "/v1/status", None, {"Authorization": f"Basic {admin}"}),
                ("GET", "/v1/status", None, {"Authorization": f"Bearer x{admin}"}),
                ("POST", "/v1/session", {"token": f"{admin}x"}, {}),
                ("POST", "/v1/session", {"token": admin, "more": admin}, {}),
                ("POST", "/v1/workers", session, {}),
                ("DELETE", f"/v1/workers/{admin}", None, {}),
            ]
            for number, (method, path, fields, headers) in enumerate(asked):
                status, _, seen[f"refusal {number}"] = cluster.reader.request(method, path, fields, headers)
                assert status >= 400
            cluster.reader.credentials = keys.credentials("admin")
            seen["a checkpoint"] = json.dumps(cluster.reader.ask("POST", "/v1/checkpoints")).encode()
            os.kill(cluster.server.pid, signal.SIGHUP)
            cluster.hear("read anew")

            for page in PAGES:
                seen[page] = cluster.reader.request("GET", page)[2]
            seen["/v1/events"] = events(cluster)
            seen["metrics of a worker"] = urllib.request.urlopen(metrics, timeout=30).read()
            for running in (cluster.server, worker, *stages):
                seen[f"the process {running.name}"] = process(running.pid)
            top = [sys.executable, "-m", "leeway.ps.top.cli", "--once", cluster.url]
            environment = os.environ | keys.variables("reader") | {"PYTHONPATH": os.getcwd()}
            seen["ps-top"] = subprocess.run(top, env=environment, capture_output=True, timeout=60, check=True).stdout

            crashed.end(RUN_SECONDS)
            assert crashed.exit_code not in (0, None)
            assert "Traceback" in cluster.said(crashed)
            os.kill(worker.pid, signal.SIGTERM)
            for stage in stages:
                os.kill(stage.pid, signal.SIGTERM)
            cluster.server.ask_to_end()
            cluster.wait(cluster.server)
        trace = tmp_path / "trace.json"
        command = [sys.executable, "-m", "leeway.ps.cli", "trace", history, "-o", trace]
        subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, timeout=60, check=True)
    finally:
        os.umask(before)

    # What shows the model or the run is its owner's alone.
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name.partition("-")[0] for path in state.iterdir()} == {"checkpoint", "epoch.json", "lock"}
    for path in (history, trace, *state.iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600, path

    seen |= {path.name: path.read_bytes() for path in written}
    texts = [(where, what) for where, text in seen.items() for what, one in secrets.items() if one.encode() in text]
    assert texts == []
    lives = {where: re.findall(SECRET, text) for where, text in seen.items() if where != DIGESTS}
    assert {where: found for where, found in lives.items() if found} == {}
