import os

import pytest

from leeway.ps.storage.files import PARTIAL_SUFFIX, remove_partial_files, write_durably


def test_a_file_is_written_whole(tmp_path):
    write_durably(tmp_path / "a", [b"one ", memoryview(b"two"), bytearray()])
    assert (tmp_path / "a").read_bytes() == b"one two"
    write_durably(tmp_path / "a", [b"three"])
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"three")]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_durably(tmp_path / "a", [b"old"])

    def broken():
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_durably(tmp_path / "a", broken())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_remains_of_a_killed_writer_are_cleared_away(tmp_path):
    (tmp_path / ("a" + PARTIAL_SUFFIX)).write_bytes(b"half")
    (tmp_path / "b").write_bytes(b"whole")
    remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_nobody_else_reads_it_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        write_durably(tmp_path / "a", [b"one"])
        (tmp_path / ("b" + PARTIAL_SUFFIX)).write_bytes(b"left by a writer that was killed")
        write_durably(tmp_path / "b", [b"two"])
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
