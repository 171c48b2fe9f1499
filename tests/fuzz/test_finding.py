"""A finding is shown with the input that leads to it."""

import subprocess
import sys

import pytest

from tests.fuzz.finding import ROOT

# A target that is broken: it takes everything but an input with these two letters in it.
PROGRAM = """
import sys
from tests.fuzz import frames, run

def take(self, data):
    {fault}
    return True

frames.Target.take = take
frames.Target.mutated = lambda self, data, chance: None
sys.argv = ["run", "frames", "--inputs", "200000", "--seed", "1", "--folder", {folder!r}]
run.main()
"""
FAULTS = {
    "an error that nobody documents": ('if b"A" in data[-2:]: raise KeyError("A")', "KeyError"),
    "memory": ('if b"A" in data[-2:]: bytearray(64 * 2**20)', "are explained"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_kept(fault, tmp_path):
    pytest.importorskip(
        "atheris", reason="atheris is not installed: its wheels are for Linux alone", exc_type=ImportError
    )
    statement, words = FAULTS[fault]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(fault=statement, folder=str(tmp_path))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert words in done.stderr + done.stdout
    (found,) = tmp_path.glob("found-*")
    assert b"A" in found.read_bytes()[-2:]
