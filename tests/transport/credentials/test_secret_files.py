"""A secret that others can read is none."""

import os

import pytest

from leeway.errors import SettingError
from leeway.transport.credentials import secret_files


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text("leeway_abc\n")
    path.chmod(0o600)
    return path


def test_a_token(token):
    assert secret_files.read_token(token) == "leeway_abc"


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o644, 0o666])
def test_others_can_get_at_it(token, mode):
    token.chmod(mode)
    with pytest.raises(
        SettingError, match=rf"^token file {token} can be read by others \(mode {mode:04o}\): chmod 600 {token}"
    ):
        secret_files.read_token(token)


@pytest.mark.parametrize(("owner", "refused"), [(0, False), (1000, True)])
def test_a_group_may_read_what_is_roots(token, owner, refused):
    status = os.stat_result((0o100640, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    if refused:
        with pytest.raises(SettingError, match="mode 0640"):
            secret_files.check(token, status, "token file")
    else:
        secret_files.check(token, status, "token file")


@pytest.mark.parametrize("content", [b"", b"\n", b"one two", b"one\ntwo\n", b"\xff\xfe"])
def test_it_holds_one_token(token, content):
    token.write_bytes(content)
    with pytest.raises(SettingError, match="must hold one token, on one line, and nothing else"):
        secret_files.read_token(token)


def test_what_is_no_file(tmp_path, token):
    with pytest.raises(SettingError, match=r"token file .*none: No such file or directory"):
        secret_files.read_token(tmp_path / "none")
    with pytest.raises(SettingError, match="Is a directory"):
        secret_files.read_token(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SettingError, match="it is a pipe"):
        secret_files.read_token(tmp_path / "pipe")
    token.write_bytes(b"x" * (secret_files.MAX_BYTES + 1))
    with pytest.raises(SettingError, match="it must be another file"):
        secret_files.read_token(token)
