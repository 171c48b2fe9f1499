"""`ps-keys`: what it makes, what it says, and mistakes as one line."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from leeway.ps.keys.cli import ranks_of
from leeway.transport.credentials import tls
from leeway.transport.credentials.tokens import PREFIX, Tokens

MAKE = ("make", "cluster", "--server", "trainer.example.com", "--server", "10.0.0.7")


@pytest.fixture
def keys(tmp_path):
    def run(*arguments, code=0, **more):
        done = subprocess.run(
            [sys.executable, "-m", "leeway.ps.keys.cli", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            timeout=60,
            **more,
        )
        assert done.returncode == code, done.stderr
        assert PREFIX not in done.stdout + done.stderr
        assert "PRIVATE KEY" not in done.stdout + done.stderr
        if code == 2:
            assert done.stdout == ""
            assert done.stderr.startswith("ps-keys: ")
            assert done.stderr.count("\n") == 1
        else:
            assert done.stderr == ""
        return done.stderr.removeprefix("ps-keys: ") if code else done.stdout

    return run


def test_a_cluster_from_its_first_day_to_a_worker_that_leaves(keys, tmp_path):
    # A umask that would let everybody read.
    said = keys(*MAKE, "--workers", "w0..w2", preexec_fn=lambda: os.umask(0))
    assert said.splitlines()[:2] == ["made an authority", "made a certificate of server"]
    assert said.splitlines()[-1] == "in cluster: ca.key stays there, each other folder is for its holder alone"
    cluster = tmp_path / "cluster"
    for path in (cluster, *cluster.rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert tls.names(cluster / "server" / "cert.pem") == ("trainer.example.com", "10.0.0.7")

    assert "nothing was missing" in keys("make", "cluster")
    assert "made a token of w8" in keys("make", "cluster", "--workers", "w8")
    rows = [line.split() for line in keys("list", "cluster").splitlines()]
    assert rows[0] == ["NAME", "RIGHT", "ENDS", "(UTC)", "FOLDER"]
    assert [row[:2] for row in rows[1:]] == [
        ["server", "-"],
        *(["w0", "worker"], ["w1", "worker"], ["w2", "worker"], ["w8", "worker"]),
        *(["admin", "admin"], ["reader", "reader"]),
    ]

    assert "no certificate ends within a month" in keys("renew", "cluster")
    assert "made a certificate of w8" in keys("renew", "cluster", "w8", "--days", "7")

    said = keys("revoke", "cluster", "w1")
    assert said.startswith("w1 has no token any more; give the server the new cluster/server/tokens.toml, then kill")
    assert "its certificate is good until 20" in said
    callers = Tokens.read(cluster / "server" / "tokens.toml").callers.by_name
    assert list(callers) == ["w0", "w2", "admin", "reader", "w8"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("make", "cluster", "--workers", "w0"), "Give --server HOST"),
        ((*MAKE, "--workers", "w7..w0"), "'w7..w0' is no range of ranks; write for example w0..w7"),
        ((*MAKE, "--workers", "w0..v7"), "'w0..v7' is no range"),
        ((*MAKE, "--workers", "w0..w999999999"), "are 1000000000 ranks; at most 1000 at once"),
        ((*MAKE, "--workers", "w 0"), "'w 0' is no rank"),
        ((*MAKE, "--workers", "../../etc"), "'../../etc' is no rank"),
        ((*MAKE, "--workers", "w0,,w1"), "'' is no rank"),
        ((*MAKE, "--workers", "reader"), "no worker can be called reader"),
        (("make", "cluster", "--server", "trainer:8080"), "'trainer:8080' is no host"),
        (("make", "cluster", "--server", "https://trainer"), "'https://trainer' is no host"),
        (("make", "cluster", "--server", ""), "'' is no host"),
        (("make", "cluster", "--server", "0.0.0.0"), "0.0.0.0 is where a server listens"),
        (("make", "cluster", "--server", "a", "--days", "0"), "0 is not in the range"),
        (("make", "/proc/cluster", "--server", "a"), "/proc/cluster: "),
        (("make", "file", "--server", "a"), "is a file"),
        (("make", ".", "--server", "a"), ". has other things in it"),
        (("make", ""), "the path is empty"),
        (("renew", "cluster"), "there is no folder cluster"),
        (("revoke", "cluster", "w0"), "has no token w0"),
        (("list", "cluster"), "cluster is no folder that ps-keys has made"),
        (("burn", "cluster"), "No such command"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, keys, tmp_path):
    (tmp_path / "file").write_text("")
    assert words in keys(*arguments, code=2)
    assert not (tmp_path / "cluster").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_written(keys, tmp_path):
    (tmp_path / "shut").mkdir(mode=0o500)
    assert "Permission denied" in keys("make", "shut/cluster", "--server", "a", code=2)


def test_ranges():
    assert ranks_of("w0..w3") == ranks_of("w0..3") == ["w0", "w1", "w2", "w3"]
    assert ranks_of("w08..w10") == ["w08", "w09", "w10"]
    assert ranks_of("node-1.w9..10") == ["node-1.w9", "node-1.w10"]
    assert ranks_of("alone") == ["alone"]


def test_ctrl_c_leaves_nothing_half_made(keys, tmp_path):
    command = [sys.executable, "-m", "leeway.ps.keys.cli", *MAKE, "--workers", "w0..w998"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as made:
        try:
            workers = tmp_path / "cluster" / "workers"
            while not (workers / "w3").exists():
                assert made.poll() is None
            made.send_signal(signal.SIGINT)
            said, error = made.communicate(timeout=30)
        finally:
            made.kill()
    assert (made.returncode, said, error) == (130, "", "")
    there = {path.name for path in workers.iterdir()}
    assert len(there) < 999
    assert not list(tmp_path.rglob("*.partial"))
    keys(*MAKE, "--workers", "w0..w4")
    callers = Tokens.read(tmp_path / "cluster" / "server" / "tokens.toml").callers.by_name
    assert {"w0", "w1", "w2", "w3", "w4"} <= set(callers)
