from contextlib import contextmanager

import pytest

from leeway.errors import DataError
from leeway.worker.data.fetching import fetch
from leeway.worker.data.published import Member
from tests.worker.data.publisher import CONTENT, Watched, data_set_of, download_of, publishing
from tests.worker.data.test_unpacking import archive


class Display:
    def __init__(self):
        self.lines = []

    @contextmanager
    def following(self, wanted):
        yield Watched()

    def done(self, path, what):
        self.lines.append((path.name, what))


@pytest.fixture
def display():
    return Display()


@pytest.fixture
def packed(tmp_path):
    """An archive of two files as it is published, and what is published of it."""
    content = archive(tmp_path / "made.tar.gz", [("b/one", b"1"), ("b/two", b"22")]).read_bytes()
    return content, download_of(content, "set.tar.gz", (Member("b/one", 1), Member("b/two", 2)))


def test_what_is_missing_is_fetched_from_the_publishers_addresses(publisher, tmp_path, display):
    data_set = data_set_of(download_of(CONTENT, "a", addresses=[f"{publisher.url}/file"]))
    assert data_set.missing(tmp_path) == [Member("a", len(CONTENT))]
    fetch(data_set, tmp_path, display)
    assert (tmp_path / "set" / "a").read_bytes() == CONTENT
    assert data_set.missing(tmp_path) == []
    fetch(data_set, tmp_path, display)
    assert display.lines == [("a", "fetched"), ("a", "is there")]
    assert len(publisher.asked) == 1


def test_a_mirror_is_a_data_directory_of_the_same_layout(tmp_path, display):
    with publishing({"/data/set/a": CONTENT}) as mirror:
        data_set = data_set_of(download_of(CONTENT, "a", addresses=["http://127.0.0.1:1/a"]))
        fetch(data_set, tmp_path, display, f"{mirror.url}/data/")
    assert display.lines == [("a", "fetched")]


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", b"short"])
def test_what_is_there_and_another_is_not_written_over(tmp_path, display, content):
    file = tmp_path / "set" / "a"
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(DataError, match="is there, but its SHA-256 is"):
        fetch(data_set_of(download_of(CONTENT, "a")), tmp_path, display)
    assert file.read_bytes() == content


def test_an_archive_is_unpacked_and_removed(packed, tmp_path, display):
    content, wanted = packed
    with publishing({"/set/set.tar.gz": content}) as mirror:
        fetch(data_set_of(wanted), tmp_path, display, mirror.url)
        fetch(data_set_of(wanted), tmp_path, display, mirror.url)
        assert len(mirror.asked) == 1
    assert display.lines == [("one", "fetched"), ("two", "fetched"), ("one", "is there"), ("two", "is there")]
    assert sorted(file.name for file in (tmp_path / "set").rglob("*")) == ["b", "one", "two"]


def test_an_archive_that_was_fetched_before_is_unpacked(packed, tmp_path, display):
    content, wanted = packed
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.tar.gz").write_bytes(content)
    fetch(data_set_of(wanted), tmp_path, display)
    assert (tmp_path / "set" / "b" / "two").read_bytes() == b"22"
