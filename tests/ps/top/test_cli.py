import socket
import subprocess
import sys

import pytest

from leeway.ps.top import cli
from tests.ps.top.telling import Script, message, status, telling, worker


def run(capsys, *arguments):
    """Exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def told(*workers):
    return Script(message("status", status(*workers, seconds=1.0)) + message("status", status(*workers, seconds=2.0)))


@pytest.mark.parametrize("flags", [(), ("--once",)])
def test_where_there_is_no_terminal_one_snapshot_is_printed(capsys, flags):
    with telling(told(worker("w0", 3))) as server:
        code, out, err = run(capsys, *flags, server.url + "/")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].split()[:3] == ["w0", "3", "0"]


def test_the_address_may_be_in_the_environment(capsys, monkeypatch):
    with telling(told(worker("w0", 3))) as server:
        monkeypatch.setenv("PS_SERVER", server.url)
        assert run(capsys)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["localhost:8080"], "write http://localhost:8080"),
        (["http://x", "--refresh", "0"], "--refresh"),
        (["http://x", "--refresh", "soon"], "--refresh"),
        (["http://x", "more"], "unexpected extra argument"),
        (["--nothing"], "--nothing"),
    ],
)
def test_a_mistake_in_the_call_is_one_line_and_exit_code_2(capsys, arguments, words):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("ps-top: ")
    assert words in err
    assert err.count("\n") == 1


def test_no_server_is_one_line_and_exit_code_1(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, out, err = run(capsys, f"http://127.0.0.1:{port}")
    assert (code, out) == (1, "")
    assert err == f"ps-top: no connection to http://127.0.0.1:{port}: Connection refused\n"
    with telling(Script(b"<html>", ends=True, kind="text/html")) as server:
        code, _, err = run(capsys, server.url)
    assert (code, err) == (1, f"ps-top: {server.url} answered with text/html; is that a Leeway server?\n")


def test_interrupted(capsys, monkeypatch):
    def interrupted(url, group, credentials):
        raise KeyboardInterrupt

    monkeypatch.setattr("leeway.ps.top.watching.once", interrupted)
    assert run(capsys, "http://x") == (130, "", "")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from leeway.ps.top import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: print(sorted({'rich', 'torch', 'numpy', 'aiohttp', 'urllib.request'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_version(capsys):
    assert "ps-top" in run(capsys, "--version")[1]
