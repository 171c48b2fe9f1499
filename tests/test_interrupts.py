"""Ctrl-C and SIGTERM at the two ends of a program: while it imports, and when all is said."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]

# An interrupt that comes as this module is being imported.
PROGRAM = """
import os, signal, sys
sys.path.insert(0, {root!r})

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Interrupting())
from {program} import main
main({arguments})
"""

SERVE = ("leeway.ps.cli", ["--port", "0", "--optimizer", "adam"])
WORKER = ("leeway.worker.train.cli", ["digits", "--server", "http://127.0.0.1:1"])


def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("PS_")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("program", "module"),
    [(SERVE, "torch.nn"), (SERVE, "numpy.linalg"), (WORKER, "torch"), (WORKER, "numpy.random"), (WORKER, "sklearn")],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_in_the_midst_of_imports_the_process_ends_without_a_word(program, module, number):
    name, arguments = program
    code = PROGRAM.format(root=str(ROOT), module=module, number=int(number), program=name, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_what_comes_when_all_is_said_does_not_change_the_exit_code(tmp_path):
    command = [sys.executable, "-m", "leeway.ps.cli", "--port", "0", "--state-dir", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout.readline().startswith("http://")
        server.send_signal(signal.SIGTERM)
        for line in server.stderr:
            if '"event": "stopped"' in line:
                break
        while server.poll() is None:
            server.send_signal(signal.SIGTERM)
            server.send_signal(signal.SIGINT)
    assert server.returncode == 0
