"""Servers that are stopped, killed, and started again while somebody waits for them; and their files."""

import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import leeway
from leeway.errors import ServerLost
from tests.end_to_end.commands import SMALL
from tests.guarantees import judge, read

pytestmark = pytest.mark.e2e

WORKERS = 2
STEPS = 40


@pytest.fixture
def model(tmp_path):
    """A file of initial values."""
    values = {"weight": torch.arange(12.0).reshape(4, 3), "seen": torch.tensor(5)}
    save_file(values, tmp_path / "model.safetensors")
    return values


def again(commands, server, *flags):
    """The server started anew at the same place, from its saved state."""
    return commands.serve(*flags, "--resume", port=urlsplit(server.url).port)


def epoch_of(etag):
    return int(etag.strip('"').partition(".")[0])


def test_stopping_with_parked_requests(commands, model):
    server = commands.serve(*("--init", "model.safetensors", "--state-dir", "state", "--mode", "sync", "--workers", 4))
    lives = []
    for index in range(3):
        joined = server.ask("POST", "/v1/workers", {"rank": f"w{index}", "session": f"s{index}"})
        lives.append(f"rank=w{index}&epoch={joined['epoch']}&incarnation={joined['incarnation']}")
    waiting = [*(f"/v1/params?clock=0&{life}" for life in lives), *["/v1/params?min_version=99"] * 3]
    headers = {"Prefer": "wait=60", "Accept": "application/vnd.leeway.frame"}
    with ThreadPoolExecutor(len(waiting)) as threads:
        answers = [threads.submit(server.request, "GET", path, headers=headers) for path in waiting]
        until(server, lambda status: parked(status) == len(waiting))
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        for answer in answers:
            status, told, body = answer.result(10)
            assert (status, told["Retry-After"]) == (503, "1"), body
            assert b"stopping" in body
        server.wait(code=0)
    assert time.monotonic() - begun < 2
    assert list((commands.folder / "state").glob("*.safetensors")), "the state is saved"


def until(server, met, seconds=30.0):
    """Ask for the status until something is true of it."""
    deadline = time.monotonic() + seconds
    while not met(status := server.status()):
        assert time.monotonic() < deadline, status
    return status


def parked(status):
    workers = sum(one["groups"]["default"]["state"] == "waiting" for one in status["workers"])
    return workers + status["groups"]["default"]["readers_waiting"]


def test_an_etag_after_a_clean_stop_and_after_a_kill(commands, model):
    flags = ("--init", "model.safetensors", "--state-dir", "state", "--mode", "async")
    server = commands.serve(*flags)
    status, headers, body = server.request("GET", "/v1/params")
    etag = headers["ETag"]
    assert server.request("GET", "/v1/params", headers={"If-None-Match": etag})[0] == 304
    server.stop()

    server = again(commands, server, *flags)
    assert server.request("GET", "/v1/params", headers={"If-None-Match": etag})[0] == 304, "the same epoch goes on"
    server.kill()

    server = again(commands, server, *flags)
    status, headers, whole = server.request("GET", "/v1/params", headers={"If-None-Match": etag})
    assert status == 200
    assert whole == body
    assert epoch_of(headers["ETag"]) > epoch_of(etag)


SERIAL = ("--workers", WORKERS, "--mode", "sync", "--optimizer", "adam", "--lr", 0.01)


def run(commands, *flags):
    server = commands.serve(*SERIAL, *flags)
    return server, commands.workers(WORKERS, SMALL, server, "--steps", STEPS, "--batch-size", 16, "--slow", 0.02)


def test_a_run_is_the_same_with_a_stop_in_the_middle(commands):
    undisturbed, its_workers = run(commands)
    flags = ("--state-dir", "state", "--history", "history.jsonl")
    server, workers = run(commands, *flags)
    server.version(at_least=8)
    server.stop()
    for process in workers:
        process.hear("server is away")
    server = again(commands, server, *SERIAL, *flags)
    for process in workers:
        process.wait()
        assert process.events("server is back")
    learned = server.parameters()
    server.stop()
    rows = read(commands.folder / "history.jsonl")
    assert sum(row.get("is") == "Started" for row in rows) == 2
    facts = judge(rows)
    assert len(facts.epochs) == 1, "a clean stop and a start are one epoch"
    assert len(facts.told) == len(facts.applied) == WORKERS * STEPS
    assert sorted(one[1:] for one in facts.began) == [("w0", 1), ("w1", 1)], "the same lives go on"

    for process in its_workers:
        process.wait()
    for name, value in undisturbed.parameters().items():
        assert torch.equal(learned[name], value), name


@pytest.mark.parametrize("mode", ["sync", "ssp"])
def test_workers_survive_a_server_that_is_killed(commands, mode):
    flags = ("--workers", WORKERS, "--mode", mode, "--until", STEPS, "--history", "history.jsonl")
    flags += ("--state-dir", "state", "--checkpoint-every", 5)
    server = commands.serve(*flags)
    workers = commands.workers(WORKERS, SMALL, server, "--batch-size", 16, "--slow", 0.02)
    server.hear('"why": "period"')
    etag = server.version(at_least=12)
    server.kill()
    for process in workers:
        process.hear("server is away")
    server = again(commands, server, *flags)
    for process in workers:
        process.wait()
    server.wait()
    facts = judge(read(commands.folder / "history.jsonl"))
    first, second = facts.epochs
    assert first == epoch_of(etag) < second
    assert facts.finished
    # The new epoch began at a checkpoint, so it repeats the iterations behind that and no other.
    repeated = {name[1:] for name in facts.applied if name[0] == first} & {
        name[1:] for name in facts.applied if name[0] == second
    }
    assert repeated <= {name[1:] for name in facts.lost}
    for rank in ("w0", "w1"):
        clocks = [clock for epoch, _, who, _, clock in facts.told if who == rank and epoch == second]
        assert clocks[-1] == STEPS - 1, "the run is completed"
        assert clocks == list(range(clocks[0], STEPS)), "the server's clock is adopted"


def test_curl_downloads_a_file_that_safetensors_opens(commands, model):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl on this machine")
    server = commands.serve("--init", "model.safetensors", "--mode", "async")
    fetch = [curl, "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "30"]
    path = commands.folder / "downloaded.safetensors"
    subprocess.run([*fetch, "-o", path, f"{server.url}/v1/params"], check=True)
    downloaded = load_file(path)
    assert downloaded.keys() == model.keys()
    assert all(torch.equal(downloaded[name], value) for name, value in model.items())
    path = commands.folder / "weight.npy"
    accept = ["-H", "Accept: application/x-npy"]
    subprocess.run([*fetch, *accept, "-o", path, f"{server.url}/v1/params?keys=weight"], check=True)
    assert np.array_equal(np.load(path), model["weight"].numpy())


def test_patience_with_a_server_that_is_not_there_ends(commands):
    server = commands.serve()
    server.stop()
    waiting = commands.work(SMALL, server, "w0")
    with pytest.raises(ServerLost, match=r"has been away for more than 0\.5 s"):
        leeway.connect(server.url, "w1", patience_seconds=0.5)
    waiting.hear("waiting for the server")
    waiting.signal(signal.SIGINT)
    waiting.wait(code=130)
    assert "Traceback" not in waiting.said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--mode", "ssp", "--staleness", -1), "--staleness is -1"),
        (("--state-dir", "model.safetensors"), "model.safetensors"),
        (("--init", "nothing.safetensors"), "nothing.safetensors"),
        (("--resume",), "--resume needs --state-dir"),
        (("--config", "nothing.toml"), "nothing.toml"),
    ],
)
def test_a_mistake_is_one_line(commands, model, flags, says):
    server = commands.python("server", "-m", "leeway.ps.cli", "--port", 0, *flags)
    server.wait(code=2)
    (line,) = server.errors
    assert line.startswith("ps-serve: ")
    assert says in line


def test_a_port_in_use_is_one_line(commands):
    server = commands.serve()
    port = urlsplit(server.url).port
    other = commands.python("other", "-m", "leeway.ps.cli", "--port", port)
    other.wait(code=2)
    assert other.errors == [
        f"ps-serve: port {port} at 127.0.0.1 is in use; choose another with --port, or 0 for a free one"
    ]
