import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import leeway
from leeway.ps.storage.checkpoints import Checkpoint
from leeway.ps.storage.directory import EPOCH_FILE, StateDirectory
from leeway.ps.storage.files import PARTIAL_SUFFIX

EMPTY = Checkpoint({}, {})


def test_the_first_epoch_is_the_time(tmp_path):
    with StateDirectory(tmp_path / "new" / "state") as state:
        assert state.begin(1000, None) == 1000


def test_a_clean_stop_and_its_checkpoint_keep_the_epoch(tmp_path):
    with StateDirectory(tmp_path) as state:
        state.begin(1000, None)
        path = state.checkpoints.write(EMPTY, 1)
        state.finish_clean(path)
    for now_ms in (2000, 3000):
        with StateDirectory(tmp_path) as state:
            assert state.begin(now_ms, state.checkpoints.latest()) == 1000
            state.finish_clean(path)


@pytest.mark.parametrize("how", ["killed", "resumed from an older one", "not resumed", "killed at the second start"])
def test_every_other_start_begins_a_larger_epoch(tmp_path, how):
    with StateDirectory(tmp_path) as state:
        state.begin(1000, None)
        older, newer = (state.checkpoints.write(EMPTY, number) for number in (1, 2))
        if how != "killed":
            state.finish_clean(newer)
    if how == "killed at the second start":
        with StateDirectory(tmp_path) as state:
            assert state.begin(1500, newer) == 1000
    resumed = {"not resumed": None, "resumed from an older one": older}.get(how, newer)
    with StateDirectory(tmp_path) as state:
        assert state.begin(2000, resumed) == 2000


def test_an_epoch_grows_even_when_the_clock_goes_back(tmp_path):
    for now_ms, epoch in ((1000, 1000), (500, 1001), (1001, 1002), (5000, 5000)):
        with StateDirectory(tmp_path) as state:
            assert state.begin(now_ms, None) == epoch


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"epoch": "1", "clean": true, "checkpoint": null}', b"\xff"]
)
def test_an_unreadable_epoch_says_what_to_do(tmp_path, content):
    (tmp_path / EPOCH_FILE).write_bytes(content)
    with StateDirectory(tmp_path) as state, pytest.raises(ValueError, match=r"unreadable .*remove it to begin"):
        state.begin(1000, None)


def test_two_servers_never_share_a_folder(tmp_path):
    first = StateDirectory(tmp_path)
    with pytest.raises(ValueError, match=rf"in use by process {os.getpid()}; stop it or choose another"):
        StateDirectory(tmp_path)
    first.close()
    first.close()
    StateDirectory(tmp_path).close()


def test_a_killed_server_leaves_the_folder_free(tmp_path):
    code = (
        "import sys, pathlib; from leeway.ps.storage.directory import StateDirectory\n"
        "state = StateDirectory(pathlib.Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(leeway.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(ValueError, match=f"in use by process {child.pid}"):
            StateDirectory(tmp_path)
        child.send_signal(signal.SIGKILL)
    StateDirectory(tmp_path).close()


def test_a_folder_that_cannot_be_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot use the state directory .*choose another"):
        StateDirectory(tmp_path / "file")


def test_partial_files_are_cleared_away(tmp_path):
    (tmp_path / ("checkpoint-000000000001.safetensors" + PARTIAL_SUFFIX)).touch()
    with StateDirectory(tmp_path) as state:
        assert state.checkpoints.paths() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


def test_a_bad_setting_lets_the_lock_go(tmp_path):
    with pytest.raises(ValueError, match="retained"):
        StateDirectory(tmp_path, retained=0)
    StateDirectory(tmp_path).close()
