"""What may stand at a path that is opened."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from leeway import regular


def pipe(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def bound(path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


@pytest.fixture
def path():
    # Addresses of sockets are short.
    with tempfile.TemporaryDirectory(prefix="leeway-") as folder:
        yield Path(folder, "file")


def test_a_file_and_a_link_to_one_pass(path):
    path.touch()
    regular.check(path)
    link = path.with_name("link")
    link.symlink_to(path)
    regular.check(link)


@pytest.mark.parametrize(("make", "what"), [(pipe, "pipe"), (device, "device"), (bound, "socket")])
def test_nothing_else_does(path, make, what):
    make(path)
    with pytest.raises(OSError, match=f"it is a {what}, where a regular file should be") as refused:
        regular.check(path)
    assert refused.value.filename == str(path)


def test_a_folder_and_nothing_have_the_systems_words(path):
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        regular.check(path.parent)
    with pytest.raises(FileNotFoundError):
        regular.check(path)


def test_devices_pass_where_they_may(path):
    device(path)
    regular.check(path, devices=True)
    path.unlink()
    pipe(path)
    with pytest.raises(OSError, match="a pipe"):
        regular.check(path, devices=True)


def test_an_open_pipe_passes_where_it_may_and_one_with_a_name_does_not(path):
    reading, writing = os.pipe()
    try:
        regular.check(Path(f"/dev/fd/{reading}"), open_pipes=True)
        with pytest.raises(OSError, match="a pipe"):
            regular.check(Path(f"/dev/fd/{reading}"))
    finally:
        os.close(reading)
        os.close(writing)
    pipe(path)
    with pytest.raises(OSError, match="a pipe"):
        regular.check(path, open_pipes=True)
