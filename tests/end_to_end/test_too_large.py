"""`docs/tutorial/too-large.md`: under one limit of memory one process cannot train the model, and four stages can."""

import re
import sys

import pytest

from tests.end_to_end.commands import ROOT

PAGE = (ROOT / "docs" / "tutorial" / "too-large.md").read_text(encoding="utf-8")
(SCRIPT,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
(SERVER,) = re.findall(r"^ps-serve (.*)$", PAGE, re.MULTILINE)
(ALONE,) = re.findall(r"^\((ulimit .*) 0 1\)$", PAGE, re.MULTILINE)
STAGES, STAGE = re.search(r"^for stage in (.*); do \((ulimit .*)\) & done; wait$", PAGE, re.MULTILINE).groups()

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's"),
]


def test_one_process_cannot_and_four_stages_can(commands):
    (commands.folder / "too_large.py").write_text(SCRIPT, encoding="utf-8")
    server = commands.serve(*SERVER.split())
    environment = {"PS_SERVER": server.url, "OMP_NUM_THREADS": "1"}

    def run(name, line):
        return commands.shell(name, line.replace("; python ", f"; exec {sys.executable} "), environment)

    alone = run("alone", f"{ALONE} 0 1")
    alone.wait(1)
    assert "can't allocate memory" in alone.said

    numbers = STAGES.split()
    stages = [run(f"stage {number}", STAGE.replace("$stage", number)) for number in numbers]
    for stage in stages:
        stage.wait()
    losses = [float(loss) for loss in re.findall(r"^iteration \d+: loss (.*)$", stages[-1].said, re.MULTILINE)]
    assert len(losses) == 3
    assert losses[-1] < 0.8 * losses[0]
    server.wait()
