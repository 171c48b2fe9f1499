import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import leeway
from leeway.ps.storage import digests
from leeway.ps.storage.checkpoints import Checkpoint
from leeway.ps.storage.directory import EPOCH_FILE, LOCK_FILE, StateDirectory
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
            assert state.begin(now_ms, state.checkpoints.latest(), saved_epoch=1000) == 1000
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
            assert state.begin(1500, newer, saved_epoch=1000) == 1000
    resumed = {"not resumed": None, "resumed from an older one": older}.get(how, newer)
    with StateDirectory(tmp_path) as state:
        assert state.begin(2000, resumed, saved_epoch=1000) == 2000


def test_an_epoch_grows_even_when_the_clock_goes_back(tmp_path):
    for now_ms, epoch in ((1000, 1000), (500, 1001), (1001, 1002), (5000, 5000)):
        with StateDirectory(tmp_path) as state:
            assert state.begin(now_ms, None) == epoch


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"{}", b'{"epoch": "1", "clean": true, "checkpoint": null}', b"\xff", b"7"),
        *(b"[" * 100_000, b'{"epoch":' * 100_000, b'{"epoch": ' + b"9" * 5000 + b"}"),
        b'{"epoch": 1, "epoch": 1, "clean": true, "checkpoint": null}',
    ],
    ids=range(11),
)
def test_an_unreadable_epoch_says_what_to_do(tmp_path, content):
    (tmp_path / EPOCH_FILE).write_bytes(content)
    with StateDirectory(tmp_path) as state, pytest.raises(ValueError, match=r"unreadable .*remove it to begin"):
        state.begin(1000, None)


def test_a_clean_stop_of_another_epoch_than_the_checkpoints_is_none(tmp_path):
    with StateDirectory(tmp_path) as state:
        state.begin(1000, None)
        path = state.checkpoints.write(EMPTY, 1)
        state.finish_clean(path)
    with StateDirectory(tmp_path) as state:
        assert state.begin(900, path, saved_epoch=3000) == 3001


def test_an_epoch_is_above_the_checkpoints_where_the_file_is_gone(tmp_path):
    with StateDirectory(tmp_path) as state:
        assert state.begin(1000, state.checkpoints.write(EMPTY, 1), saved_epoch=5000) == 5001


@pytest.fixture
def stopped(tmp_path):
    """The state directory of a server that has stopped cleanly in epoch 1000 with the second of two checkpoints."""
    with StateDirectory(tmp_path) as state:
        state.begin(1000, None)
        state.checkpoints.write(Checkpoint({"clock": 1}, {}), 1)
        state.finish_clean(state.checkpoints.write(Checkpoint({"clock": 2}, {}), 2))
    return tmp_path


def put_back(older, newer):
    shutil.copy(older, newer)


def exchange(older, newer):
    newer.rename(newer.with_name("aside"))
    older.rename(newer)
    newer.with_name("aside").rename(older)


def of_another_run(older, newer):
    with StateDirectory(newer.parent / "other") as state:
        shutil.copy(state.checkpoints.write(Checkpoint({"clock": 7}, {}), 2), newer)


@pytest.mark.parametrize("change", [put_back, exchange, of_another_run])
def test_other_content_under_the_name_of_the_newest_checkpoint_begins_a_new_epoch(stopped, change):
    with StateDirectory(stopped) as state:
        older, newer = state.checkpoints.paths()
        change(older, newer)
        assert state.checkpoints.latest() == newer
        assert state.begin(2000, newer, saved_epoch=1000) == 2000


def test_the_same_content_in_another_file_keeps_the_epoch(stopped):
    with StateDirectory(stopped) as state:
        newest = state.checkpoints.latest()
        newest.write_bytes(newest.read_bytes())
        assert state.begin(2000, newest, saved_epoch=1000) == 1000


@pytest.mark.parametrize("clean", [False, True])
def test_a_changed_digest_of_the_checkpoint_is_found(stopped, clean):
    path = stopped / EPOCH_FILE
    with StateDirectory(stopped) as state:
        newest = state.checkpoints.latest()
        state.begin(2000, newest, saved_epoch=1000)
        if clean:
            state.finish_clean(newest)
        said = json.loads(path.read_bytes())
        assert (said["checkpoint"], said["clean"]) == (newest.name, clean)
        assert said["checkpoint_digest"] == newest.read_bytes()[-32:].hex()
        for other in (None, "0" * 64):
            path.write_text(json.dumps(said | {"checkpoint_digest": other}))
            with pytest.raises(ValueError, match="its digest is of something else"):
                state.begin(3000, newest, saved_epoch=1000)


def test_a_byte_changed_in_the_epoch_file_is_found(tmp_path):
    with StateDirectory(tmp_path) as state:
        state.begin(1000, None)
        state.finish_clean(state.checkpoints.write(EMPTY, 1))
    path = tmp_path / EPOCH_FILE
    content = path.read_bytes()
    passed = []
    for place in range(len(content) - 1):
        for bit in range(7):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            with StateDirectory(tmp_path) as state:
                try:
                    state.begin(2000, None)
                except ValueError:
                    assert path.read_bytes() == changed
                else:
                    passed.append((place, bytes(changed)))
    # What JSON does not tell apart: blanks.
    assert [where for where, changed in passed if changed.split() != content.split()] == []


@pytest.mark.parametrize("digest", ["", ', "digest": "%s"'], ids=["no digest", "no digest of the checkpoint"])
def test_one_of_an_older_version_does_not_say_what_the_server_stopped_with(tmp_path, digest):
    name = "checkpoint-000000000001.safetensors"
    if digest:
        digest %= digests.of_fields(["1000", "True", name])
    (tmp_path / EPOCH_FILE).write_text(f'{{"epoch": 1000, "clean": true, "checkpoint": "{name}"{digest}}}')
    with StateDirectory(tmp_path) as state:
        path = state.checkpoints.write(EMPTY, 1)
        assert path.name == name
        assert state.begin(900, path, saved_epoch=1000) == 1001


@pytest.mark.parametrize("name", [EPOCH_FILE, LOCK_FILE])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["a pipe", "a device"])
def test_what_is_no_file_where_a_file_should_be_is_one_line(tmp_path, name, make):
    make(tmp_path / name)
    with (
        pytest.raises(ValueError, match=r"it is a \w+, where a regular file should be"),
        StateDirectory(tmp_path) as state,
    ):
        state.begin(1000, None)


def test_a_pipe_where_the_next_file_is_to_be_written_is_cleared_away(tmp_path):
    os.mkfifo(tmp_path / (EPOCH_FILE + PARTIAL_SUFFIX))
    with StateDirectory(tmp_path) as state:
        assert state.begin(1000, None) == 1000


@pytest.mark.parametrize("name", [EPOCH_FILE, EPOCH_FILE + PARTIAL_SUFFIX, "lock"])
def test_a_folder_where_a_file_should_be_is_one_line(tmp_path, name):
    (tmp_path / name / "inside").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"[Ii]s a directory"), StateDirectory(tmp_path) as state:
        state.begin(1000, None)


def test_no_room_for_the_epoch_is_one_line(tmp_path):
    with StateDirectory(tmp_path) as state:
        shutil.rmtree(tmp_path)
        with pytest.raises(ValueError, match=r"cannot write .*epoch.json .No such file.*make room"):
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
