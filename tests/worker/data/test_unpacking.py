import io
import os
import tarfile

import pytest

from leeway.errors import DataError
from leeway.worker.data.published import Member
from leeway.worker.data.unpacking import unpack


def archive(path, members):
    """A gzipped tar of (name, content)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_what_is_wanted_comes_to_its_place_and_nothing_else(tmp_path):
    path = archive(tmp_path / "a.tar.gz", [("b/one", b"1"), ("b/note", b"?"), ("../two", b"22"), ("b/two", b"22")])
    unpack(path, [Member("b/one", 1), Member("b/two", 2)], tmp_path / "out")
    assert {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file != path} == {
        "one": b"1",
        "two": b"22",
    }
    assert path.exists()


@pytest.mark.parametrize("members", [[("one", b"1")], [("one", b"1"), ("two", b"2")]], ids=["missing", "another size"])
def test_an_archive_that_lacks_something_is_refused(tmp_path, members):
    path = archive(tmp_path / "a.tar.gz", members)
    with pytest.raises(DataError, match=r"a\.tar\.gz lacks two: remove it and run this again$"):
        unpack(path, [Member("one", 1), Member("two", 2)], tmp_path)


@pytest.mark.parametrize("keep", [0, 30, 90])
def test_half_an_archive_is_refused(tmp_path, keep):
    path = archive(tmp_path / "a.tar.gz", [("one", bytes(range(256)) * 40)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"^\S*a\.tar\.gz (is no complete archive \(.*\)|lacks one): remove it and run"):
        unpack(path, [Member("one", 10_240)], tmp_path)
    assert not (tmp_path / "one").exists()


def test_a_link_in_an_archive_is_no_file(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo("one")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    with pytest.raises(DataError, match="lacks one"):
        unpack(path, [Member("one", 0)], tmp_path)


def test_a_pipe_in_the_place_of_a_part_is_not_opened(tmp_path):
    path = archive(tmp_path / "a.tar.gz", [("one", b"1")])
    os.mkfifo(tmp_path / "one.part")
    with pytest.raises(DataError, match=r"one\.part: it is a pipe, where a regular file should be$"):
        unpack(path, [Member("one", 1)], tmp_path)


def test_what_the_system_says_is_one_line(tmp_path):
    path = archive(tmp_path / "a.tar.gz", [("b/one", b"1")])
    (tmp_path / "b").write_text("a file")
    with pytest.raises(DataError, match=r"b: File exists$"):
        unpack(path, [Member("b/one", 1)], tmp_path)
