"""Children end with us: real processes, each a line of Python."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from leeway.worker.launch.children import Children, Program

FOREVER = "import signal; print('up', flush=True); signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


def python(name: str, code: str, **environment: str) -> Program:
    return Program(name, [sys.executable, "-c", code], environment)


class Lines:
    """Keeps what the children say."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, bool]] = []

    def __call__(self, name: str, line: str, is_error: bool) -> None:
        self.said.append((name, line, is_error))


@pytest.fixture
def lines() -> Lines:
    return Lines()


def test_output_comes_line_by_line_from_both_streams(lines: Lines) -> None:
    code = "import sys; print('one'); print('two\\r'); print('bad', file=sys.stderr); print('three', end='')"
    with Children(lines) as children:
        children.start(python("a", code))
        assert list(children.ends()) == [("a", 0)]
    assert [line for _, line, is_error in lines.said if not is_error] == ["one", "two", "three"]
    assert [line for _, line, is_error in lines.said if is_error] == ["bad"]


def test_bytes_that_are_no_text_do_no_harm(lines: Lines) -> None:
    with Children(lines) as children:
        children.start(python("a", "import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n')"))
        list(children.ends())
    assert lines.said == [("a", "\ufffd\ufffd", False)]


def test_much_output_is_complete(lines: Lines) -> None:
    with Children(lines) as children:
        children.start(python("a", "for i in range(20_000): print(i)"))
        list(children.ends())
    assert [line for _, line, _ in lines.said] == [str(number) for number in range(20_000)]


def test_the_first_line_is_of_stdout(lines: Lines) -> None:
    with Children(lines) as children:
        code = "import sys; print('warning', file=sys.stderr, flush=True); print('http://x')"
        children.start(python("a", code))
        assert children.first_line("a") == "http://x"


def test_there_may_be_no_first_line(lines: Lines) -> None:
    with Children(lines) as children:
        children.start(python("a", "raise SystemExit(3)"))
        assert children.first_line("a") is None
        assert children.worst_code == 3


def test_variables_are_added_to_ours(lines: Lines) -> None:
    with Children(lines) as children:
        children.start(python("a", "import os; print(os.environ['MINE'], 'PATH' in os.environ)", MINE="x"))
        list(children.ends())
    assert lines.said == [("a", "x True", False)]


def test_the_worst_code_is_the_largest_and_a_signal_counts_as_in_a_shell(lines: Lines) -> None:
    with Children(lines) as children:
        children.start(python("a", "raise SystemExit(4)"))
        children.start(python("b", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
        assert dict(children.ends()) == {"a": 4, "b": 128 + signal.SIGKILL}
        assert children.worst_code == 128 + signal.SIGKILL


class TestStopping:
    def test_who_ends_as_told_has_done_nothing_wrong(self, lines: Lines) -> None:
        with Children(lines) as children:
            children.start(python("a", FOREVER))
            children.start(python("b", FOREVER))
            assert children.first_line("a") == children.first_line("b") == "up"
            children.stop("a")
            assert children.running == ("b",)
            assert children.worst_code == 0

    def test_it_may_say_goodbye(self, lines: Lines) -> None:
        code = (
            "import signal\n"
            "def leave(*_): print('goodbye'); raise SystemExit(143)\n"
            "signal.signal(signal.SIGTERM, leave); print('up', flush=True); signal.pause()"
        )
        with Children(lines) as children:
            children.start(python("a", code))
            children.first_line("a")
            children.stop("a")
            assert children.worst_code == 0
        assert ("a", "goodbye", False) in lines.said

    def test_what_fails_while_it_ends_is_told(self, lines: Lines) -> None:
        code = (
            "import signal\n"
            "def fail(*_): raise SystemExit(7)\n"
            "signal.signal(signal.SIGTERM, fail); print('up', flush=True); signal.pause()"
        )
        with Children(lines) as children:
            children.start(python("a", code))
            children.first_line("a")
        assert children.worst_code == 7

    def test_who_does_not_listen_is_killed(self, lines: Lines) -> None:
        with Children(lines, stop_seconds=0.2) as children:
            children.start(python("a", DEAF))
            children.first_line("a")
            children.stop("a")
            assert children.running == ()
            assert children.worst_code == 128 + signal.SIGKILL

    def test_all_are_ended_when_something_goes_wrong_here(self, lines: Lines) -> None:
        children = Children(lines, stop_seconds=0.2)

        def go_wrong() -> None:
            with children:
                children.start(python("a", FOREVER))
                children.start(python("b", DEAF))
                assert children.first_line("a") == children.first_line("b") == "up"
                raise RuntimeError("here")

        with pytest.raises(RuntimeError, match="here"):
            go_wrong()
        assert children.running == ()

    def test_even_when_the_output_cannot_be_written(self) -> None:
        def write(name: str, line: str, is_error: bool) -> None:
            raise BrokenPipeError

        children = Children(write, stop_seconds=0.2)

        def go_wrong() -> None:
            with children:
                children.start(python("a", FOREVER))
                children.first_line("a")

        with pytest.raises(BrokenPipeError):
            go_wrong()
        assert children.running == ()

    def test_waiting_has_a_limit(self, lines: Lines) -> None:
        with Children(lines) as children:
            children.start(python("a", FOREVER))
            children.wait(0.05)
            assert children.running == ("a",)


def tether() -> tuple[socket.socket, str]:
    """A listener, and code for a child that holds a connection to it for as long as it lives."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(30)
    port = listener.getsockname()[1]
    return listener, f"import socket; held = socket.create_connection(('127.0.0.1', {port})); held.send(b'x');"


def accepted(listener: socket.socket) -> socket.socket:
    held, _ = listener.accept()
    held.settimeout(30)
    assert held.recv(1) == b"x"
    return held


def test_grandchildren_end_too(lines: Lines) -> None:
    listener, hold = tether()
    grandchild = f"{hold} import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {grandchild!r}]); sys.stdin.read()"
    with listener, Children(lines) as children:
        children.start(python("a", code))
        with accepted(listener) as held:
            assert dict(children.ends()) == {"a": 0}
            assert held.recv(1) == b""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a process that was killed")
def test_children_end_when_their_parent_is_killed() -> None:
    listener, hold = tether()
    child = f"{hold} import signal; signal.pause()"
    parent = (
        "import sys; from leeway.worker.launch.children import Children, Program\n"
        "with Children(print) as children:\n"
        f"    children.start(Program('a', [sys.executable, '-c', {child!r}]))\n"
        "    list(children.ends())\n"
    )
    with listener, subprocess.Popen([sys.executable, "-c", parent]) as process, accepted(listener) as held:
        os.kill(process.pid, signal.SIGKILL)
        assert held.recv(1) == b""
