"""`ps-data` as a process, against a server of the test's own: the whole way, and mistakes as one line."""

import os
import pty
import signal
import subprocess
import sys

import pytest

from leeway.worker.data.published import DATA_SETS
from tests.worker.data.publisher import publishing

SETS = [data_set for data_set in DATA_SETS.values() if data_set.name != "cifar10"]
HEAVY = ("torch", "aiohttp", "numpy", "structlog", "rich", "asyncio")


def ps_data(*arguments, cwd, **settings):
    """Run it to its end."""
    command = [sys.executable, "-m", "leeway.worker.data.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(**settings), timeout=60)


def environment(**settings):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PS_")}
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    return inherited | {"PYTHONPATH": root, "NO_PROXY": "*"} | settings


@pytest.fixture
def published():
    """The data directory that other tests have; skips without it."""
    place = os.environ.get("PS_DATA_DIR")
    if not place:
        pytest.skip("PS_DATA_DIR names no data directory")
    return place


@pytest.fixture
def mirror(published):
    """The published files, over HTTP."""
    files = {}
    for data_set in SETS:
        for download in data_set.downloads:
            path = f"{data_set.folder}/{download.path}"
            with open(os.path.join(published, path), "rb") as file:
                files[f"/{path}"] = file.read()
    with publishing(files) as server:
        yield server


def test_help_names_the_sets_and_imports_nothing_heavy(tmp_path):
    program = (
        "import sys; from leeway.worker.data.cli import command; command.main(['--help'], standalone_mode=False);"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    assert done.stderr.strip() == ""
    assert all(f"\n    {name} " in done.stdout for name in DATA_SETS)


@pytest.mark.data
def test_the_files_that_other_tests_read_are_those_that_are_published(mirror, tmp_path):
    got = ps_data("get", *(data_set.name for data_set in SETS), "--from", mirror.url, cwd=tmp_path)
    assert (got.returncode, got.stderr) == (0, "")
    assert got.stdout.splitlines()[0] == "data/mnist/train-images-idx3-ubyte.gz  fetched"
    assert len(got.stdout.splitlines()) == 8
    listed = ps_data("list", cwd=tmp_path).stdout.splitlines()
    assert listed[0] == "in data:"
    assert listed[1] == "  mnist          11.6 MB  there, for ps-worker mnist"
    assert listed[2] == "  cifar10       170.1 MB  all files missing"
    again = ps_data("get", "mnist", cwd=tmp_path)
    assert again.stdout.count("  is there\n") == 4
    assert len(mirror.asked) == 8


@pytest.mark.data
def test_an_interrupt_keeps_what_has_come(mirror, tmp_path):
    """Ctrl-C in the middle of a file: the next call asks for the rest alone."""
    path, half = "/mnist/train-images-idx3-ubyte.gz", 5_000_000
    part = tmp_path / "data" / f"{path[1:]}.part"
    mirror.pauses_after = half
    command = [sys.executable, "-m", "leeway.worker.data.cli", "get", "mnist", "--from", mirror.url]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while not part.exists() or part.stat().st_size < half:
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == ""
    assert part.read_bytes() == mirror.files[path][:half]
    mirror.pauses_after = None
    assert ps_data("get", "mnist", "--from", mirror.url, cwd=tmp_path).returncode == 0
    assert mirror.asked[1] == (path, f"bytes={half}-")


@pytest.mark.data
def test_on_a_terminal_a_bar_shows_how_far_it_is(mirror, tmp_path):
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "leeway.worker.data.cli", "get", "howell", "--from", mirror.url]
    done = subprocess.run(command, cwd=tmp_path, env=environment(TERM="xterm"), stderr=end, timeout=60, check=True)
    os.close(end)
    assert done.returncode == 0
    assert b"Howell1.csv" in os.read(terminal, 100_000)
    os.close(terminal)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["get"], "Missing argument 'SET...'. Choose from: mnist, cifar10, a9a, howell, shakespeare"),
        (["get", "mnst"], "Invalid value for 'SET...': 'mnst' is not one of 'mnist', 'cifar10', "),
        (
            ["get", "a9a", "--from", "http://127.0.0.1:1"],
            "http://127.0.0.1:1/a9a/a9a cannot be reached (Cannot connect",
        ),
        *(
            (
                ["get", "a9a", "--from", address],
                f"Invalid value for '--from': {address!r} is no address of http or https ",
            )
            for address in ("fileserver", "http://", "", "http://a b", "http://127.0.0.1:99999")
        ),
        (["get", "a9a", "--data-dir", ""], "Invalid value for '--data-dir': the path is empty; is the variable set "),
        (["list", "--data-dir", ""], "Invalid value for '--data-dir': the path is empty; is the variable set "),
        (["get", "a9a", "--data-dir", "n" * 300], f"{'n' * 300}/a9a/a9a: File name too long"),
        (["list", "--data-dir", "n" * 300], f"{'n' * 300}/mnist/"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, says):
    done = ps_data(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"ps-data: {says}")
    assert done.stderr.count("\n") == 1


def test_a_mirror_that_lacks_the_file_is_one_line(publisher, tmp_path):
    done = ps_data("get", "howell", "--from", publisher.url, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"ps-data: {publisher.url}/height-weight/Howell1.csv answers 404 Not Found\n",
    )


def test_a_set_that_fails_does_not_keep_back_the_others(publisher, tmp_path):
    publisher.files["/height-weight/Howell1.csv"] = b"another file"
    done = ps_data("get", "a9a", "howell", "shakespeare", "--from", publisher.url, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    said = [line.removeprefix(f"ps-data: {publisher.url}/") for line in done.stderr.splitlines()]
    assert said[0] == "a9a/a9a answers 404 Not Found"
    assert said[1].startswith("height-weight/Howell1.csv has ended too early: ")
    assert said[2].endswith(" answers 404 Not Found")
    assert len(said) == 3
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["data/height-weight/Howell1.csv.part"], "what has come is kept, and no empty file"


@pytest.mark.data
def test_those_behind_one_that_fails_are_fetched(mirror, tmp_path):
    del mirror.files["/a9a/a9a"]
    done = ps_data("get", "a9a", "howell", "--from", mirror.url, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "data/height-weight/Howell1.csv  fetched\n")
    assert done.stderr == f"ps-data: {mirror.url}/a9a/a9a answers 404 Not Found\n"


def test_what_a_server_says_steers_no_terminal(publisher, tmp_path):
    publisher.reason = "\x1b[31mred"
    done = ps_data("get", "howell", "--from", publisher.url, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"ps-data: {publisher.url}/height-weight/Howell1.csv answers 404 \\x1b[31mred\n",
    )


def test_a_pipe_in_a_files_place_is_one_line(publisher, tmp_path):
    (tmp_path / "data" / "height-weight").mkdir(parents=True)
    os.mkfifo(tmp_path / "data" / "height-weight" / "Howell1.csv")
    done = ps_data("get", "howell", "--from", publisher.url, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "ps-data: data/height-weight/Howell1.csv: it is a pipe, where a regular file should be\n",
    )


def test_the_list_says_what_is_missing(tmp_path):
    (tmp_path / "a9a").mkdir()
    (tmp_path / "a9a" / "a9a").write_bytes(bytes(2_327_314))
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar10-dct.npz").touch()
    lines = ps_data("list", cwd=tmp_path, PS_DATA_DIR=str(tmp_path)).stdout.splitlines()
    assert lines == [
        f"in {tmp_path}:",
        "  mnist          11.6 MB  all files missing",
        "  cifar10       170.1 MB  all files missing; cifar10-dct.npz is there and taken in their place",
        "  a9a             3.5 MB  missing: a9a.t",
        "  howell         12.2 kB  all files missing",
        "  shakespeare     1.1 MB  all files missing",
    ]


@pytest.mark.parametrize(("task", "name"), [(data_set.task, name) for name, data_set in DATA_SETS.items()])
def test_a_task_without_its_data_names_the_command(tmp_path, task, name):
    command = [sys.executable, "-m", "leeway.worker.train.cli", task]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("ps-worker: ")
    assert done.stderr.endswith(f"; run: ps-data get {name}\n")
    assert done.stderr.count("\n") == 1
