"""`ps-launch` with real servers and workers, and a training script that is a worker by itself."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.end_to_end.commands import ROOT, SMALL, Reader
from tests.guarantees import judge, read

pytestmark = pytest.mark.e2e


def test_a_server_and_its_workers_as_one(commands):
    launch = commands.launch(
        *("digits", "--workers", 3, "--mode", "ssp", "--staleness", 2, "--until", 20, "--batch-size", 8),
        *("--start-together", 3, "--history", "history.jsonl"),
    )
    launch.wait(code=0)
    assert launch.lines[0].startswith("server | http://")
    for rank in ("w0", "w1", "w2"):
        assert any(line.startswith(f"{rank} ") and '"done"' in line for line in (*launch.lines, *launch.errors))
    facts = judge(read(commands.folder / "history.jsonl"))
    assert facts.finished
    assert len(facts.told) == 3 * 20
    assert facts.largest_lag <= 2


def test_one_that_fails_does_not_stop_the_others_and_decides_the_exit_code(commands):
    launch = commands.launch(
        *(SMALL, "--workers", 2, "--mode", "async", "--steps", 5, "--for", "w1", "--model broken"),
        *("--history", "history.jsonl"),
    )
    launch.wait(code=1)
    assert "this worker's own mistake" in launch.said
    assert "w1 ended with exit code 1" in launch.said
    facts = judge(read(commands.folder / "history.jsonl"))
    clocks = {rank: [clock for _, _, who, _, clock in facts.applied if who == rank] for rank in ("w0", "w1")}
    assert clocks == {"w0": [0, 1, 2, 3, 4], "w1": [0, 1]}


def test_a_mistake_in_the_server_s_settings(commands):
    launch = commands.launch("digits", "--mode", "nonsense")
    launch.wait(code=2)
    assert "before it had an address" in launch.said
    assert "Traceback" not in launch.said


@pytest.mark.skipif(sys.platform != "linux", reason="the processes are found under /proc")
def test_ctrl_c_leaves_nothing_running(commands):
    launch = commands.launch(SMALL, "--workers", 2, "--mode", "async", "--slow", 0.02, "--history", "history.jsonl")
    address = launch.hear("| http://").partition("| ")[2]
    Reader(address).version(at_least=5)
    children = Path(f"/proc/{launch.pid}/task/{launch.pid}/children").read_text().split()
    assert len(children) == 3
    launch.signal(signal.SIGINT)
    launch.wait(code=130)
    assert "Traceback" not in launch.said
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)
    facts = judge(read(commands.folder / "history.jsonl"))
    assert sorted(one[1:] for one in facts.ended) == [("w0", 1, "left"), ("w1", 1, "left")]


def test_a_script_of_one_s_own(commands):
    server = commands.serve(
        *("--mode", "sync", "--workers", 2, "--optimizer", "momentum", "--lr", 0.05, "--until", 200),
        *("--history", "history.jsonl"),
    )
    script = ROOT / "examples" / "own_script.py"
    launched = {"RANK": "1", "WORLD_SIZE": "2", "PS_SERVER": server.url}
    scripts = [
        commands.python("by arguments", script, server.url, "w0"),
        commands.python("by torchrun", script, environment=launched),
    ]
    for index, process in enumerate(scripts):
        process.wait()
        (line,) = process.lines
        done, _, accuracy = line.rpartition(" ")
        assert done == f"w{index}: 200 iterations, test accuracy"
        assert float(accuracy) > 0.8
    server.wait()
    facts = judge(read(commands.folder / "history.jsonl"))
    assert len(facts.told) == 2 * 200
