"""What both sides expose, to the linter of Prometheus itself."""

import subprocess

from prometheus_client import generate_latest

from tests.ps.server.eventful import SETTINGS, live_through
from tests.ps.server.serving import serve
from tests.system import require
from tests.worker.watching.recorded import with_everything_recorded


def problems(text):
    """What it complains about: nothing when all is well."""
    done = subprocess.run([require("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=60)
    complaints = (done.stdout + done.stderr).decode()
    assert bool(done.returncode) == bool(complaints)
    return complaints


async def test_a_server_is_clean(tmp_path):
    async with serve(**SETTINGS, state_dir=tmp_path) as server:
        waiting = await live_through(server)
        reply = await server.get("/metrics")
        assert problems(reply.body) == ""
        server.runtime.stop()
        await waiting


def test_a_worker_is_clean():
    assert problems(generate_latest(with_everything_recorded().registry)) == ""


def test_what_is_not_clean_is_seen():
    assert "_total" in problems(b"# HELP x Without a suffix.\n# TYPE x counter\nx 1\n")
