"""How the programs end, whichever it is."""

import subprocess
import sys

import click
import pytest

from leeway import programs
from leeway.errors import DataError, SettingError, TaskError


@pytest.mark.parametrize("kind", [SettingError, TaskError, DataError])
def test_what_the_user_can_mend_is_one_line(capsys: pytest.CaptureFixture[str], kind: type[Exception]) -> None:
    @click.command("ps-worker")
    def program() -> None:
        raise kind("there is no such file;\nget it")

    with pytest.raises(SystemExit) as ended:
        programs.run(program, [])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "ps-worker: there is no such file; get it\n"


def test_a_value_of_thousands_of_digits_is_not_said_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command("ps-worker")
    @click.option("--steps", type=int)
    def program(steps: int) -> None:
        raise AssertionError(steps)

    with pytest.raises(SystemExit):
        programs.run(program, ["--steps", "9" * 5000])
    assert capsys.readouterr().err == (
        f"ps-worker: Invalid value for '--steps': '{'9' * 99}... is not a valid integer.\n"
    )


def test_what_is_not_seen_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command("ps-worker")
    def program() -> None:
        raise DataError("no file \x1b[2J\udcff\u202eé")

    with pytest.raises(SystemExit):
        programs.run(program, [])
    assert capsys.readouterr().err == "ps-worker: no file \\x1b[2J\\udcff\\u202eé\n"


def test_an_error_of_the_users_own_task_keeps_its_traceback() -> None:
    @click.command("ps-worker")
    def program() -> None:
        raise ValueError("shapes do not match")

    with pytest.raises(ValueError, match="shapes do not match"):
        programs.run(program, [])


def test_ctrl_c_is_130() -> None:
    @click.command("ps-worker")
    def program() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        programs.run(program, [])
    assert ended.value.code == 130


def test_sigterm_lets_the_program_clean_up() -> None:
    program = (
        "import click, os, signal\n"
        "from leeway import programs\n"
        "@click.command('ps-worker')\n"
        "def program():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        print('left')\n"
        "programs.run(program, [], terminable=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "left\n", "")
