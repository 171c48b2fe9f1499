"""The two scripts of the page *From DDP to Leeway*, each run by two processes: they do the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "from-ddp.md").read_text(encoding="utf-8")
BEFORE, AFTER = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
(DIFF,) = re.findall(r"^```diff\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)

# gloo's threads can hold tensors when the interpreter goes down, which then aborts (pytorch/pytorch#179291).
LEAVE_AT_ONCE = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"

pytestmark = pytest.mark.e2e


def printed(script: str, folder: Path, **environment: str) -> list[str]:
    (folder / "train.py").write_text(script, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    everything = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    ran = subprocess.run(command, cwd=folder, env=everything, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    return re.findall(r"loss \d+\.\d+", ran.stdout)


def test_the_diff_is_what_the_scripts_differ_in():
    def lines(script: str) -> set[str]:
        return {line for line in script.splitlines() if line}

    before, after = lines(BEFORE), lines(AFTER)
    told = {sign: {line[1:] for line in DIFF.splitlines() if line.startswith(sign)} for sign in "-+"}
    imports = re.compile(r"from torch\.")
    assert {line for line in before - after if not imports.match(line)} == told["-"]
    assert {line for line in after - before if not imports.match(line)} == told["+"]
    assert len(told["-"]) == 6


def test_both_learn_the_same(tmp_path):
    ddp = printed(BEFORE + LEAVE_AT_ONCE, tmp_path)
    serve = [sys.executable, "-m", "leeway.ps.cli", "--port", "0", "--mode", "sync", "--workers", "2"]
    with subprocess.Popen(serve, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ours = printed(AFTER, tmp_path, PS_SERVER=server.stdout.readline().strip())
        finally:
            server.kill()
    assert len(ddp) == 2
    assert ours == ddp
