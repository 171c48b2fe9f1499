"""The example for Accelerate: as it is, and as the script that it was made of.

Run by test_frameworks.py in the environment that has Accelerate.
"""

import os
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run
from types import SimpleNamespace

import pytest
import torch

import leeway
from leeway.worker.samples import Samples
from tests.worker.callbacks.near import serving

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "examples" / "with_accelerate.py"

# The lines that made a worker of it, and what stood there.
UNCHANGED = {
    "session = leeway.connect(*sys.argv[1:3])  # 1: reach the server\n": "",
    "leeway.Sampler(data, session)": "in_one_process(data)",
    "optimizer = session.wrap(optimizer, model)  # 3: each step is an iteration\n": "",
    "in session.epochs(loader, EPOCHS)": "in (batch for _ in range(EPOCHS) for batch in loader)",
    'print(f"{session.rank}: {session.clock} iterations, test accuracy {accuracy:.3f}")\n': "",
    "session.close()\n": "",
}


def in_one_process(data):
    """The order of a worker that is alone."""
    return leeway.Sampler(data, SimpleNamespace(index=0, count=1, samples=Samples()))


def test_with_one_worker_it_is_the_unchanged_script_in_all_digits(monkeypatch):
    text = SCRIPT.read_text(encoding="utf-8")
    for line, before in UNCHANGED.items():
        assert text.count(line) == 1
        text = text.replace(line, before)
    expected = {"in_one_process": in_one_process}
    exec(compile(text, "unchanged.py", "exec"), expected)
    with serving() as url:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), url, "w0"])
        found = runpy.run_path(str(SCRIPT))
    assert found["session"].clock == 36  # 47 batches: 11 steps of four, and the three that are left
    for name, tensor in found["model"].state_dict().items():
        assert torch.equal(tensor, expected["model"].state_dict()[name])
    assert found["accuracy"] == expected["accuracy"] > 0.8


def test_the_servers_optimizer(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    text = SCRIPT.read_text(encoding="utf-8")
    changed = text.replace("session.wrap(optimizer, model)", "session.wrap(optimizer, model, server_optimizer=True)")
    assert changed != text
    script.write_text(changed, encoding="utf-8")
    with serving(optimizer="adamw", lr=0.02) as url:
        monkeypatch.setattr(sys, "argv", [str(script), url, "w0"])
        found = runpy.run_path(str(script))
    assert found["session"].clock == 36
    assert found["accuracy"] > 0.8


def test_two_workers_learn():
    def work(place):
        command = [sys.executable, str(SCRIPT), url, f"w{place}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return run(command, env=environment, capture_output=True, text=True, timeout=100)

    with serving(workers=2, until=15) as url, ThreadPoolExecutor(2) as threads:
        for ran in threads.map(work, range(2)):
            assert ran.returncode == 0, ran.stderr
            rank, _, rest = ran.stdout.partition(": ")
            assert rank in ("w0", "w1")
            assert rest.startswith("15 iterations")
            assert float(rest.split()[-1]) > 0.6
