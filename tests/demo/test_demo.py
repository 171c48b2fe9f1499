"""The demo as its user starts it, with few iterations."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.demo"]

pytestmark = pytest.mark.e2e


@pytest.fixture
def environment() -> dict[str, str]:
    """Marks the processes, and finds the packages where they lie, installed or not."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "DEMO_TEST": uuid.uuid4().hex}


def left_behind(environment: dict[str, str]) -> list[str]:
    """The command lines of processes that still carry the mark."""
    mark = f"DEMO_TEST={environment['DEMO_TEST']}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_it_runs_measures_and_draws(tmp_path, environment):
    flags = ["--only", "ssp", "--iterations", "12", "--nap", "0.02", "--out", str(tmp_path)]
    done = subprocess.run([*COMMAND, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("watch it: http://127.0.0.1:")
    assert "Measured in this run" in done.stdout
    assert (tmp_path / "modes.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((tmp_path / "figures.json").read_text())["modes"]["ssp"]
    assert figures["worker_steps"] == figures["steps"] == 4 * 12
    assert 0 <= figures["largest_lag"] <= 3
    assert figures["accuracy"][-1]["updates"] == 4 * 12
    assert left_behind(environment) == []


def test_a_failing_worker_ends_it_with_the_last_lines_of_the_log(tmp_path, environment):
    environment["PS_DEVICE"] = "abacus"
    flags = ["--only", "async", "--out", str(tmp_path)]
    done = subprocess.run([*COMMAND, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a worker failed" in done.stderr
    assert "'abacus'" in done.stderr
    assert left_behind(environment) == []


def test_ctrl_c_ends_it_and_all_it_started(tmp_path, environment):
    flags = ["--only", "sync", "--out", str(tmp_path)]
    with subprocess.Popen([*COMMAND, *flags], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        while "clocks" not in demo.stdout.readline():
            assert demo.poll() is None
        assert len(left_behind(environment)) == 6
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
    assert demo.returncode == 130
    assert left_behind(environment) == []


def test_the_last_server_is_kept_until_ctrl_c_and_has_the_address_of_the_first(tmp_path, environment):
    flags = ["--only", "ssp,async", "--iterations", "4", "--nap", "0.01", "--out", str(tmp_path), "--keep", "--open"]
    # The browser is one that writes down what it is asked to open.
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/opened\n")
    browser.chmod(0o755)
    environment["BROWSER"] = str(browser)
    with subprocess.Popen([*COMMAND, *flags], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout is not None
            first = demo.stdout.readline().removeprefix("watch it: ").strip()
            lines = [""]
            while "stays up until Ctrl-C" not in lines[-1]:
                lines.append(demo.stdout.readline())
                assert demo.poll() is None
            assert lines[-1].strip().endswith(first)
            assert not any(line.startswith("watch it") for line in lines)
            with urlopen(f"{first}/v1/status") as reply:
                assert json.load(reply)["groups"]["default"]["policy"]["mode"] == "async"
            demo.send_signal(signal.SIGINT)
            demo.stdout.read()
        except BaseException:
            # It is not to be waited for: it would stay.
            demo.terminate()
            raise
    assert demo.returncode == 0
    assert (tmp_path / "opened").read_text().split() == [first]
    assert left_behind(environment) == []


def test_an_unknown_mode_is_a_mistake_in_the_command_line(tmp_path, environment):
    flags = ["--only", "bsp", "--out", str(tmp_path)]
    done = subprocess.run([*COMMAND, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no mode 'bsp'" in done.stderr
