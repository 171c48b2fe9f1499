"""A worker that is written in JavaScript from the pages of the docs alone, against a real server."""

import math
import subprocess

import pytest

from tests.end_to_end.commands import ROOT, RUN_SECONDS, Process
from tests.system import require
from tests.transport.credentials.clusters import Keys

pytestmark = pytest.mark.e2e

WORKER = ROOT / "examples" / "javascript" / "worker.mjs"


def start(commands, server, rank, environment=None):
    process = Process(rank, [str(require("node")), str(WORKER), server.url, rank], environment or {}, commands.folder)
    commands._started.append(process)
    return process


def learned(process):
    process.wait()
    clock, *values = process.lines[-1].split()
    return int(clock), [float(value) for value in values]


def test_its_frames_are_those_of_the_vectors():
    script = ROOT / "tests" / "end_to_end" / "vectors.mjs"
    command = [str(require("node")), str(script), str(ROOT / "docs" / "reference" / "frame-vectors")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert ran.stdout.strip().endswith(" vectors, 0 faults"), ran.stdout + ran.stderr


@pytest.mark.parametrize("mode", [("ssp", "--staleness", 1), ("sync",)], ids=lambda mode: mode[0])
def test_two_of_them_learn_together_and_leave(commands, mode):
    require("node")
    server = commands.serve("--mode", *mode, "--workers", 2, "--lr", 0.1, "--until", 100)
    workers = [start(commands, server, rank) for rank in ("js0", "js1")]
    for process in workers:
        clock, values = learned(process)
        assert clock == 100
        assert all(math.isclose(value, truth, abs_tol=0.05) for value, truth in zip(values, (1, -2, 3), strict=True))
    server.wait()
    joined = [row["rank"] for row in server.events("joined")]
    assert sorted(joined) == ["js0", "js1"], "one life each"


def test_it_goes_on_after_a_restart_of_the_server(commands):
    """The new server has none of the state: another epoch, nothing to pull, and the clock at zero."""
    require("node")
    first = commands.serve("--mode", "async", "--lr", 0.1)
    worker = start(commands, first, "js0")
    first.version(at_least=5)
    first.kill()
    port = first.url.rpartition(":")[2]
    again = commands.serve("--mode", "async", "--lr", 0.1, "--until", 60, port=port)
    clock, values = learned(worker)
    assert clock == 60
    assert all(math.isclose(value, truth, abs_tol=0.1) for value, truth in zip(values, (1, -2, 3), strict=True))
    again.wait()


def test_it_shows_a_token_and_believes_an_authority(commands, tmp_path):
    require("node")
    keys = Keys(tmp_path / "cluster", ("js0",))
    folder = keys.of("server")
    tls = ("--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem", "--tokens", folder / "tokens.toml")
    server = commands.serve("--mode", "async", "--lr", 0.1, "--until", 20, *tls)
    authority = {"NODE_EXTRA_CA_CERTS": str(keys.ca)}
    token = {"PS_TOKEN_FILE": str(keys.of("js0") / "token")}
    for shown, words in ((token, "unable to "), (authority, "401 unauthenticated: this server asks for a token")):
        refused = start(commands, server, "js0", shown)
        refused.wait(code=1)
        assert words in refused.said
    assert learned(start(commands, server, "js0", authority | token))[0] == 20
    server.wait()
