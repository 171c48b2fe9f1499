"""`ps-launch`: what it starts, how it ends, and the command lines it makes. The children are lines of Python."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from leeway.worker.launch import cli as launch
from leeway.worker.launch.children import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SERVES = "import signal; print('http://127.0.0.1:1', flush=True); signal.pause()"


def python(name: str, code: str, *arguments: str) -> Program:
    return Program(name, [sys.executable, "-c", code, *arguments])


@pytest.fixture(autouse=True)
def _signals_are_left_as_they_were() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


class Gate:
    """Code that a child stops at until a certain line has been written by another."""

    def __init__(self, path: Path, opened_by: str) -> None:
        os.mkfifo(path)
        self.code = f"open({str(path)!r}).read();"
        self._path = path
        self._opened_by = opened_by

    def see(self, line: str) -> None:
        if line == self._opened_by:
            self._path.open("w").close()


def run(
    server: str, *workers: str, gate: Gate | None = None, together: int = 1, names: Sequence[str] = ("w0", "w1", "w2")
) -> tuple[int, list[str]]:
    """Run these programs as server and workers: the exit code, and all lines with their names."""
    lines: list[str] = []

    def programs(address: str) -> Iterator[Program]:
        for name, code in zip(names, workers, strict=False):
            yield python(name, code, address)

    def write(name: str, line: str, is_error: bool) -> None:
        lines.append(f"{name}: {line}")
        if gate:
            gate.see(lines[-1])

    return launch.run(python(launch.SERVER, server), programs, write, together, stop_seconds=20), lines


def test_workers_get_the_address_and_the_server_ends_after_them() -> None:
    code, lines = run(SERVES, "import sys; print(sys.argv[1])", "import sys; print(sys.argv[1])")
    assert code == 0
    assert lines[:2] == [
        "server: http://127.0.0.1:1",
        "launch: starting w0, w1; each loads torch and its data before it joins",
    ]
    assert sorted(lines[2:]) == ["w0: http://127.0.0.1:1", "w1: http://127.0.0.1:1"]


def test_a_worker_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate", opened_by="launch: w0 ended with exit code 5")
    code, lines = run(SERVES, "raise SystemExit(5)", f"{gate.code} print('done')", gate=gate)
    assert code == 5
    assert lines[-1] == "w1: done"


def serving_status(barriers: str) -> str:
    """A server that answers every request with a status that has these barriers."""
    return (
        "import http.server, socketserver\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        f"        self.wfile.write(b'{barriers}')\n"
        "    def log_message(self, *_): pass\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Handler)\n"
        "print(f'http://127.0.0.1:{server.server_port}', flush=True)\n"
        "server.serve_forever()"
    )


def test_a_worker_that_fails_before_the_start_ends_those_that_wait_for_it() -> None:
    waits = "import signal; signal.pause()"
    code, lines = run(serving_status('{"barriers": {}}'), "raise SystemExit(5)", waits, waits, together=3)
    assert code == 5
    assert lines[-2:] == [
        "launch: w0 ended with exit code 5",
        "launch: w0 failed before 3 workers could start together: the rest is ended",
    ]


def test_a_stage_that_fails_ends_the_other_stages_of_its_worker(tmp_path: Path) -> None:
    gate = Gate(
        tmp_path / "gate", opened_by="launch: w0.1 cannot go on without w0.0, and nobody restarts it: ended too"
    )
    waits = "import signal; signal.pause()"
    names = ("w0.0", "w0.1", "w1.0")
    code, lines = run(SERVES, "raise SystemExit(5)", waits, f"{gate.code} print('done')", gate=gate, names=names)
    assert code == 5
    assert lines[-1] == "w1.0: done"
    assert not any(line.startswith("launch: w0.1 ended") for line in lines)


@pytest.mark.parametrize(
    ("barriers", "together"),
    [('{"barriers": {"start": 1}}', 2), ('{"barriers": {}}', 1), ("no status", 2)],
    ids=["they had started", "enough are left", "the server does not say"],
)
def test_a_worker_that_fails_later_does_not(tmp_path: Path, barriers: str, together: int) -> None:
    gate = Gate(tmp_path / "gate", opened_by="launch: w0 ended with exit code 5")
    server = serving_status(barriers)
    code, lines = run(server, "raise SystemExit(5)", f"{gate.code} print('done')", gate=gate, together=together)
    assert code == 5
    assert lines[-1] == "w1: done"


def test_a_mistake_in_the_command_line_ends_all() -> None:
    code, lines = run(SERVES, "raise SystemExit(2)", "import signal; signal.pause()")
    assert code == 2
    assert "launch: w0 ended with exit code 2" in lines


@pytest.mark.parametrize(("server", "ended_with", "code"), [("raise SystemExit(3)", 3, 3), ("pass", 0, 1)])
def test_a_server_that_cannot_start_is_the_whole_story(server: str, ended_with: int, code: int) -> None:
    said = f"launch: server ended with exit code {ended_with} before it had an address"
    assert run(server, "print('never')") == (code, [said])


def test_a_server_that_fails_later_ends_the_workers(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate", opened_by="w0: up")
    server = f"print('http://127.0.0.1:1', flush=True); {gate.code} raise SystemExit(9)"
    code, lines = run(server, "import signal; print('up', flush=True); signal.pause()", gate=gate)
    assert code == 9
    assert "launch: server ended with exit code 9" in lines


@pytest.mark.skipif(sys.platform != "linux", reason="the worker of this test waits for another process to end")
def test_a_server_that_has_finished_lets_the_workers_end_by_themselves() -> None:
    worker = (
        "import os, select, sys\n"
        "try: select.select([os.pidfd_open(int(sys.argv[1]))], [], [])\n"
        "except ProcessLookupError: pass\n"
        "print('done')"
    )
    code, lines = run("import os; print(os.getpid())", worker)
    assert code == 0
    assert lines[-1] == "w0: done"


class TestCommandLines:
    """The programs made from a command line."""

    @pytest.fixture(autouse=True)
    def _no_settings_from_outside(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith(("PS_", "OMP_"))]:
            monkeypatch.delenv(name)

    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Program, list[Program]]]:
        """Server and workers that a command line would start."""

        def make(*arguments: str) -> tuple[Program, list[Program]]:
            seen: list[tuple[Program, list[Program]]] = []

            def start(
                server: Program,
                workers: Callable[[str], Iterator[Program]],
                write: object,
                together: int,
                credentials: object,
            ) -> int:
                seen.append((server, list(workers("http://127.0.0.1:9"))))
                return 0

            monkeypatch.setattr(launch, "run", start)
            assert launch.command.main(list(arguments), standalone_mode=False) == 0
            return seen[0]

        return make

    def test_each_option_goes_where_it_belongs(self, made) -> None:
        server, workers = made(
            "digits", "--workers", "2", "--mode", "ssp", "--staleness=3", "--batch-size", "8", "--lr", "0.5"
        )
        start = [sys.executable, "-P", "-m"]
        assert server.command == [
            *start,
            *("leeway.ps.cli", "--port", "0", "--workers", "2", "--mode", "ssp", "--staleness=3", "--lr", "0.5"),
        ]
        for rank, worker in zip(("w0", "w1"), workers, strict=True):
            to = ["--start-together", "2", "--server", "http://127.0.0.1:9", "--rank", rank]
            assert worker.name == rank
            assert worker.command == [*start, "leeway.worker.train.cli", "digits", "--batch-size", "8", *to]

    def test_they_start_together_unless_told_otherwise(self, made) -> None:
        _, workers = made("digits", "--workers", "2", "--start-together", "1")
        assert all(worker.command.count("--start-together") == 1 for worker in workers)
        assert all(worker.command[worker.command.index("--start-together") + 1] == "1" for worker in workers)

    def test_one_worker_can_be_told_more(self, made) -> None:
        _, (first, second) = made("digits", "--for", "w1", "--slow 0.2 --model 'a b'", "--for", "w1", "--seed 4")
        assert first.command[-1] == "w0"
        assert second.command[-6:] == ["--slow", "0.2", "--model", "a b", "--seed", "4"]

    def test_a_worker_in_stages_is_several_processes(self, made) -> None:
        flags = ("--workers", "2", "--stages", "2", "--recompute", "--cut", "2,1", "--metrics-port", "9100")
        server, processes = made("digits", *flags, "--for", "w1", "--seed 4", "--for", "w1.1", "--slow 1")
        assert server.command[-2:] == ["--workers", "2"]
        shared = ["--stages", "2", "--cut", "2,1", "--recompute", "--start-together", "2"]
        assert [(process.name, process.command[4:]) for process in processes] == [
            (
                f"{rank}.{stage}",
                [
                    *("digits", *shared, "--server", "http://127.0.0.1:9", "--rank", rank, "--stage", str(stage)),
                    *("--metrics-port", port, *more),
                ],
            )
            for rank, stage, port, more in (
                ("w0", 0, "9100", ()),
                ("w0", 1, "9101", ()),
                ("w1", 0, "9102", ("--seed", "4")),
                ("w1", 1, "9103", ("--seed", "4", "--slow", "1")),
            )
        ]

    def test_ports_for_metrics_are_told_apart(self, made) -> None:
        _, workers = made("digits", "--workers", "3", "--metrics-port", "9100")
        assert [worker.command[-2:] for worker in workers] == [
            ["--metrics-port", "9100"],
            ["--metrics-port", "9101"],
            ["--metrics-port", "9102"],
        ]
        _, workers = made("digits", "--metrics-port", "0")
        assert {worker.command[-1] for worker in workers} == {"0"}

    def test_options_about_logging_reach_all(self, made) -> None:
        server, workers = made("digits", "--log-level", "debug")
        assert server.environment["PS_LOG_LEVEL"] == "debug"
        assert {worker.environment["PS_LOG_LEVEL"] for worker in workers} == {"debug"}
        assert "--log-level" not in [*server.command, *workers[0].command]

    def test_the_workers_share_the_cores(self, made, monkeypatch: pytest.MonkeyPatch) -> None:
        server, workers = made("digits", "--workers", "64")
        assert {worker.environment["OMP_NUM_THREADS"] for worker in workers} == {"1"}
        assert "OMP_NUM_THREADS" not in server.environment
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        _, workers = made("digits")
        assert "OMP_NUM_THREADS" not in workers[0].environment

    def test_variables_are_left_to_the_children(self, made, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PS_BATCH_SIZE", "16")
        _, workers = made("digits")
        assert "--batch-size" not in workers[0].command

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--mode", "ssp", "digits"], "TASK comes first: ps-launch TASK --mode ..."),
            (
                ["digit"],
                "no task 'digit'; the nearest is 'digits'; the built-in ones are linreg, digits, heights, mnist, "
                "cifar10, a9a, shakespeare, and your own is named module:object or file.py:object",
            ),
            (["no/such.py:Mine"], f"there is no file {Path('no/such.py').resolve()}"),
            (
                ["nowhere.mine:Mine"],
                "no module 'nowhere' is installed or on PYTHONPATH; for a file write nowhere/mine.py:object",
            ),
            (
                ["a9a", "--data-dir", "no", "--files", "part-*"],
                "w0: --files 'part-*' matches no file in no, the data directory",
            ),
            (
                ["digits", "--data-dir", "no", "--files", "x/*"],
                "w0: task digits reads its training samples as a whole, not by --files; a9a and linreg can",
            ),
            (["digits", "--for", "w9", "--slow 1"], "--for w9: there is no such worker; they are w0, w1"),
            (
                ["digits", "--stages", "2", "--for", "w0.2", "--slow 1"],
                "--for w0.2: there is no such worker; they are w0.0, w0.1, w1.0, w1.1",
            ),
            (
                ["heights", "--stages", "2"],
                "task heights has a model that cannot be cut into stages; cifar10, digits, mnist and shakespeare have "
                "one that can",
            ),
            (["digits", "--cut", "memory"], "--cut is about one of several stages of a model; give --stages too"),
            (
                ["digits", "--stages", "3", "--cut", "2,1"],
                "the cut 2,1 is for 2 stages, and there are 3; give a number for each",
            ),
            (["digits", "--batch-size", "0"], "--batch-size is 0; it must be 1 or more"),
            (
                ["digits", "--for", "w1", "--slow 'x"],
                """--for w1 "--slow 'x": No closing quotation""",
            ),
            (["digits", "--for", "w1", "--slow 1\\"], "--for w1 '--slow 1\\\\': No escaped character"),
            (["digits", "--for", "w1", "--slow x"], "w1: Invalid value for '--slow': 'x' is not a valid float."),
            (["digits", "--for", "w1", "--pace inf"], "w1: --pace is inf; it must be finite and at most 31536000"),
            (["digits", "--for", "w0", "--slwo 1"], "w0: No such option '--slwo'. Did you mean '--slow'?"),
            (["digits", "--for", "w0", "more"], "w0: Got unexpected extra argument (more)"),
            (["digits", "--metrics-port", "65535"], "w1: --metrics-port is 65536; it must be 0 to 65535"),
            (["digits", "--workers", "0"], "Invalid value for '--workers': 0 is not in the range x>=1."),
        ],
    )
    def test_a_mistake_is_one_line_before_anything_is_started(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            launch.main(arguments)
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"ps-launch: {said}\n"


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("--stepz", ["launch: or is --stepz meant to be --steps, of ps-launch and ps-worker?"]),
        ("--batchsize", ["launch: or is --batchsize meant to be --batch-size, of ps-launch and ps-worker?"]),
        ("--staleness-bound", []),
        ("--nonsense", []),
    ],
)
def test_an_option_that_nobody_knows_may_be_one_of_the_workers(
    monkeypatch: pytest.MonkeyPatch, option: str, advice: list[str]
) -> None:
    """The server is a real one: its complaint is what is understood."""
    lines: list[str] = []
    monkeypatch.setattr(launch, "_printer", lambda _: lambda name, line, _: lines.append(f"{name}: {line}"))
    assert launch.command.main(["digits", "--workers", "2", option, "5"], standalone_mode=False) == 2
    assert lines[0].startswith(f"server: ps-serve: No such option '{option}'")
    assert lines[1:] == [*advice, "launch: server ended with exit code 2 before it had an address"]


def test_lines_stand_under_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    write = launch._printer(["w0"])
    write("w0", "training", False)
    write("server", "broken", True)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("w0     | training\n", "server | broken\n")
