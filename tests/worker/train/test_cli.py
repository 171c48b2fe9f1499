"""`ps-worker`: the settings it hands over, and mistakes as one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from leeway.worker.train import cli
from leeway.worker.train.config import WorkerConfig
from leeway.worker.train.tasks.task import BUILT_IN

HEAVY = ("torch", "aiohttp", "uvloop", "numpy", "sklearn", "structlog", "prometheus_client", "rich", "asyncio")
SERVER = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    launchers = ("PS_", "RANK", "SLURM_", "JOB_COMPLETION_INDEX", "KUBERNETES_")
    for name in [name for name in os.environ if name.startswith(launchers)]:
        monkeypatch.delenv(name)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[WorkerConfig]:
    """Put a trainer in the real one's place that remembers what it was told and returns 5."""
    seen: list[WorkerConfig] = []

    def run(config: WorkerConfig) -> int:
        seen.append(config)
        return 5

    monkeypatch.setitem(sys.modules, "leeway.worker.train.trainer", SimpleNamespace(run=run))
    return seen


def end(*arguments: str) -> object:
    """Run `ps-worker` in this process; the exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    structlog.reset_defaults()
    return ended.value.code


def test_flags_arrive(trained: list[WorkerConfig]) -> None:
    assert end("digits", "--server", SERVER, "--rank", "w3", "--steps", "9", "--slow", "0.5", "--data-dir", "d") == 5
    expected = WorkerConfig(task="digits", server=SERVER, rank="w3", steps=9, slow_seconds=0.5, data_dir=Path("d"))
    assert trained == [expected]


def test_a_flag_stands_above_the_environment(trained: list[WorkerConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PS_SERVER": SERVER, "PS_RANK": "w1", "PS_BATCH_SIZE": "16", "PS_SLOW": "1"}.items():
        monkeypatch.setenv(name, value)
    assert end("digits", "--batch-size", "8") == 5
    assert trained == [WorkerConfig(task="digits", server=SERVER, rank="w1", batch_size=8, slow_seconds=1.0)]


def test_a_stage_needs_the_rank_that_it_shares_with_others(
    trained: list[WorkerConfig], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert end("digits", "--stages", "2", "--stage", "1") == 2
    said = "--stages needs --rank: all stages of a replica have the same name, such as w0"
    assert capsys.readouterr().err == f"ps-worker: {said}\n"
    monkeypatch.setenv("PS_STAGE", "1")
    assert end("digits", "--stages", "2", "--rank", "w0", "--recompute") == 5
    assert (trained[0].rank, trained[0].stage, trained[0].recompute) == ("w0", 1, True)


def test_a_misspelled_variable_is_named_with_the_nearest(
    trained: list[WorkerConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PS_BATCHSIZE", "8")
    monkeypatch.setenv("PS_MOD", "ssp")  # the server's to say
    assert end("digits", "--log-format", "json") == 5
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["event"], said["setting"]) == ("a setting has no effect", "PS_BATCHSIZE")
    assert said["detail"] == "no command knows this variable; the nearest is PS_BATCH_SIZE"


def test_the_rank_comes_from_the_launcher(trained: list[WorkerConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    end("digits")
    assert trained[0].rank == "w2"


def test_without_a_launcher_the_rank_is_of_this_process_alone(trained: list[WorkerConfig]) -> None:
    end("digits")
    assert trained[0].rank.endswith(f"-{os.getpid()}")


def test_every_field_has_its_option_and_every_variable_its_flags_name() -> None:
    options = [option for options in cli.SECTIONS.values() for option in options]
    assert {option.name for option in options} == set(WorkerConfig.__dataclass_fields__) - {"task"}
    for option in options:
        # Files of TLS are called the same by all commands, and by ps-serve's flags.
        prefix = "PS_TLS_" if option.name in ("ca", "cert", "key") else "PS_"
        assert option.envvar == prefix + option.opts[0].removeprefix("--").replace("-", "_").upper()


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument 'TASK'."),
        (["digits", "--steps", "0"], "--steps is 0; it must be 1 or more"),
        (["digits", "--step", "1"], "No such option '--step'. (Possible options: '--start-together', '--steps')"),
        (["digits", "--steps", "x"], "Invalid value for '--steps': 'x' is not a valid integer."),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert end(*arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith("ps-worker: " + said[:20])
    assert line.count("\n") == 1


@pytest.mark.usefixtures("trained")
def test_a_launchers_contradiction_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert end("digits") == 2
    assert capsys.readouterr().err == "ps-worker: RANK is 4, it must be below WORLD_SIZE, which is 4; or give --rank\n"


@pytest.mark.parametrize("module", ["leeway.worker.train.cli", "leeway.worker.launch.cli"])
def test_help_lists_the_tasks_and_imports_nothing_heavy(module: str) -> None:
    program = (
        f"import sys; from {module} import command; command.main(['--help'], standalone_mode=False);"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    for task in BUILT_IN:
        assert f"\n    {task} " in done.stdout
