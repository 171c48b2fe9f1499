"""`make load` from end to end: real servers, workers and DDP ranks, and the report that comes out whatever happens."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.end_to_end.commands import ROOT, RUN_SECONDS, SMALL, Commands, Reader

pytestmark = pytest.mark.e2e

PROGRAM = ("-m", "tests.load")
# What it may take: "under three minutes".
SHORT_SECONDS = 175.0

SCENARIO = f"""
title = "Small"
task = "{SMALL}"
workers = 2
batch_size = 20
target_accuracy = 0.8
run_seconds = 0.6
search_seconds = 0.5
snapshot_seconds = 0.05
pace_seconds = 0.002
seeds = [0, 1]
learning_rates = [0.2, 0.4]
systems = ["sync", "ssp(3)", "ddp"]

[[stragglers]]
kind = "constant"
seconds = 0.01
"""


@pytest.fixture
def commands(tmp_path):
    with Commands(tmp_path) as running:
        yield running


@pytest.fixture
def load(commands, tmp_path):
    """Start the program; its runs' folders are under the test's own."""

    def start(*arguments):
        environment = {"TMPDIR": str(tmp_path), "PS_DATA_DIR": str(tmp_path), "COLUMNS": "200"}
        return commands.python("load", *PROGRAM, "--out", tmp_path / "out", *arguments, environment=environment)

    return start


@pytest.fixture
def written(tmp_path):
    """A scenario file: SCENARIO with some lines in place of those of the same key."""

    def write(name, **changes):
        text = SCENARIO
        for key, value in changes.items():
            text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
            assert found
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def report(tmp_path):
    """The page and the figures that were written, when it is called."""
    return lambda: read_report(tmp_path / "out")


def read_report(folder):
    (page,), (data,) = (folder.glob(f"*-load.{kind}") for kind in ("html", "json"))
    return page.read_text(encoding="utf-8"), json.loads(data.read_text(encoding="utf-8"))


def until(program, condition):
    """Wait for something to come true while the program runs; returns what is not false."""
    deadline = time.monotonic() + RUN_SECONDS
    while not (found := condition()):
        assert program.popen.poll() is None, program.said
        assert time.monotonic() < deadline, program.said
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The page and the figures of `--short`."""
    folder = tmp_path_factory.mktemp("short")
    with Commands(folder) as running:
        arguments = (*PROGRAM, "--short", "--out", folder)
        running.python("load", *arguments, environment={"TMPDIR": str(folder)}).wait(0, seconds=SHORT_SECONDS)
    assert not list(folder.glob("leeway-load-*")), "nothing is left behind"
    return read_report(folder)


def test_the_short_form_has_everything_in_it(short):
    page, figures = short
    assert figures["complete"]
    assert "incomplete" not in page
    assert {run["system"] for run in figures["results"]} == {"sync", "async", "ssp(3)", "DDP"}
    assert len(figures["results"]) == 16
    assert figures["flood"]["complete"]
    assert '<section id="flood">' in page
    assert page.count("<svg") > 8
    # Found, not promised: only that each line is there.
    assert [line.partition(":")[0] for line in figures["answer"]] == ["Equal machines", "A slowness that moves on"]
    assert {one["learning_rate"] for one in figures["learning_rates"]["short"]} <= {0.2, 0.4}
    assert all(len(one["attempts"]) == 2 for one in figures["learning_rates"]["short"])


def test_every_run_is_measured(short):
    _, figures = short
    for run in figures["results"]:
        assert run["failure"] is None
        assert run["updates"] > 20
        assert len(run["points"]) > 3
        assert set(run["iterations_per_second"]) == set(run["waiting"]) == {"w0", "w1", "w2"}
        assert run["network_bytes"] > 0
        assert run["worker_cpu_seconds"] > 0
        assert (run["server_cpu_seconds"] is None) == (run["system"] == "DDP")
    of = {name: [run for run in figures["results"] if run["system"] == name] for name in ("sync", "async", "ssp(3)")}
    moving = [run for run in of["ssp(3)"] if run["straggler"] == "moving"]
    assert all(sum(run["lag"]["counts"][1:4]) and not sum(run["lag"]["counts"][4:]) for run in moving), "the bound is 3"
    assert all(run["updates"] > 2 * run["steps"] for run in of["sync"])
    assert all(run["waiting"]["w0"] > 0 for run in of["sync"])
    assert all(sum(run["waiting"].values()) == 0 for run in of["async"])


def test_the_page_needs_nothing_beside_itself(short):
    page, _ = short
    assert re.findall(r"(?:src|href)\s*=\s*[\"']([^\"'#][^\"']*)", page) == []
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert str(ROOT) not in page
    assert len(page) < 3 * 2**20


def test_a_target_that_nobody_reaches(load, written, report):
    load("--scenario", written("hopeless", target_accuracy=1.0, learning_rates=[1e-6], seeds=[0])).wait(0)
    page, figures = report()
    assert figures["complete"]
    assert [run["seconds_to_target"] for run in figures["results"]] == [None] * 3
    best = max(run["best_accuracy"] for run in figures["results"] if run["system"] == "DDP")
    assert f"DDP did not reach 100%; its best was {best:.1%}." in page
    assert any("nobody reached 100%" in line for line in figures["answer"])


def test_a_server_that_dies_in_the_middle(load, written, report, tmp_path):
    alone = written("small", systems='["async"]', seeds="[0]", learning_rates="[0.4]", run_seconds=60)
    program = load("--scenario", alone)
    (folder,) = until(program, lambda: list(tmp_path.glob("leeway-load-*")))
    # What it prints first is its address; what it holds later is watched.
    (address,) = until(
        program, lambda: (folder / "server.out").exists() and (folder / "server.out").read_text().split()
    )
    server = Reader(address)
    until(program, lambda: server.status()["groups"]["default"]["version"] > 200)
    os.kill(int((folder / "server.pid").read_text()), signal.SIGKILL)
    program.wait(1)
    page, figures = report()
    assert not figures["complete"]
    assert "This report is incomplete." in page
    (run,) = figures["results"]
    assert "server ended with exit code -9" in run["failure"]
    assert run["failure"] in " ".join(figures["broken"])
    assert run["points"], "what there was is kept"
    assert run["updates"] > 0
    assert not list(tmp_path.glob("leeway-load-*")), "nothing is left behind"


def test_an_interruption_leaves_a_report(load, written, report):
    three = written("small", systems='["sync"]', seeds="[0, 1, 2]", learning_rates="[0.4]", run_seconds=2)
    program = load("--scenario", three)
    program.hear("seed 0")
    program.signal(signal.SIGINT)
    program.wait(130)
    page, figures = report()
    assert figures["broken"] == ["interrupted after 1 of 3 runs"]
    assert "This report is incomplete." in page
    assert len(figures["results"]) == 1


def test_a_server_that_runs_already(commands, load, written, report):
    server = commands.serve("--mode", "ssp", "--staleness", 7, "--lr", 0.123, "--workers", 2)
    load("--server", server.url, "--scenario", written("small", learning_rates="[0.4]", seeds="[0]")).wait(0)
    page, figures = report()
    assert [(one["system"], one["failure"]) for one in figures["results"]] == [
        ("sync", None),
        ("ssp(3)", None),
        ("DDP", None),
    ]
    sync, ssp, _ = figures["results"]
    assert sum(sync["staleness"]["counts"][1:]) == 0 < sum(ssp["staleness"]["counts"])
    assert all(one["updates"] > 5 for one in figures["results"])
    assert all(one["points"][0][1] < 60 for one in (sync, ssp)), "updates of the runs before count"
    assert "switched over HTTP" in page
    # And the server is left as it was.
    policy, optimizer = (server.ask("GET", f"/v1/{one}") for one in ("policy", "optimizer"))
    assert (policy["mode"], policy["staleness"], optimizer["lr"]) == ("ssp", 7, 0.123)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--scenario", "none.toml"), "load: none.toml: cannot be read: No such file or directory"),
        (("--scenario", "bad.toml"), "load: bad.toml: there is no key batchsize; known are title, task, "),
        (("--scenario", "a.toml", "--scenario", "b/a.toml"), "load: two scenario files have the same name"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, said):
    (tmp_path / "b").mkdir()
    for name, text in (("bad.toml", "batchsize = 3\n" + SCENARIO), ("a.toml", SCENARIO), ("b/a.toml", SCENARIO)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *PROGRAM, *arguments]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith(said)
    assert ended.stderr.count("\n") == 1
