import asyncio
import fcntl
import os
import re
import resource
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from leeway.errors import DataError
from leeway.worker.data.addresses import broken_proxy
from leeway.worker.data.download import check, download
from tests.worker.data.publisher import CONTENT, Watched, download_of

WANTED = download_of(CONTENT)


class Case:
    """Downloads of `WANTED` from one server to one folder."""

    def __init__(self, publisher, folder):
        self.publisher = publisher
        self.folder = folder
        self.watched = Watched()
        self.file = folder / "file"
        self.part = folder / "file.part"

    def get(self, wanted=WANTED, addresses=None):
        addresses = addresses or [f"{self.publisher.url}/file"]
        asyncio.run(download(wanted, self.folder, addresses, self.watched))

    def refusal(self, wanted=WANTED, addresses=None):
        with pytest.raises(DataError) as refused:
            self.get(wanted, addresses)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    @property
    def ranges(self):
        return [asked for _, asked in self.publisher.asked]


@pytest.fixture
def case(publisher, tmp_path):
    return Case(publisher, tmp_path)


def test_a_file_comes_whole_and_under_its_name(case):
    case.get()
    assert case.file.read_bytes() == CONTENT
    assert not case.part.exists()
    assert case.watched.sizes[0] == 0
    assert case.watched.sizes[-1] == len(CONTENT)
    assert case.watched.sizes == sorted(case.watched.sizes)
    assert case.ranges == [None]


def test_what_broke_off_goes_on_where_it_was(case):
    case.publisher.breaks_after = 1_000_000
    said = case.refusal()
    assert said.startswith(f"{case.publisher.url}/file broke off (ClientPayloadError): ")
    assert said.endswith(f"1000000 of {len(CONTENT)} bytes are there, run this again to go on")
    assert case.part.read_bytes() == CONTENT[:1_000_000]
    assert not case.file.exists()
    case.refusal()
    case.publisher.breaks_after = None
    case.get()
    assert case.file.read_bytes() == CONTENT
    assert case.ranges == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_server_that_knows_no_ranges_starts_again(case):
    case.part.write_bytes(CONTENT[:5_000])
    case.publisher.knows_ranges = False
    case.get()
    assert case.file.read_bytes() == CONTENT
    assert case.ranges == ["bytes=5000-"]


def test_a_part_of_another_file_is_found_out_and_fetched_anew(case):
    case.part.write_bytes(b"x" * 5_000)
    case.get()
    assert case.file.read_bytes() == CONTENT
    assert case.ranges == ["bytes=5000-", None]


@pytest.mark.parametrize("begun", [CONTENT, CONTENT + b"x"], ids=["whole", "too long"])
def test_a_part_that_is_complete_or_too_long(case, begun):
    case.part.write_bytes(begun)
    case.get()
    assert case.file.read_bytes() == CONTENT
    assert case.ranges == ([] if begun == CONTENT else [None])


def test_another_sha256_is_refused_and_thrown_away(case):
    said = case.refusal(replace(WANTED, sha256="0" * 64))
    assert said == (
        f"{case.publisher.url}/file sent a file with SHA-256 {WANTED.sha256}, not {'0' * 64}: "
        "it is another or damaged, and was thrown away"
    )
    assert not case.part.exists()
    assert not case.file.exists()


def test_a_longer_file_is_refused_before_it_fills_the_disk(case):
    said = case.refusal(replace(WANTED, size_bytes=1000))
    assert said.endswith("/file sends more than the 1000 bytes of file: it is another file")
    assert not case.part.exists()


def test_a_shorter_file_is_refused(case):
    assert "/file has ended too early: " in case.refusal(replace(WANTED, size_bytes=len(CONTENT) + 1))


def test_a_range_beyond_the_end_starts_again(case):
    case.part.write_bytes(CONTENT + b"x")
    assert "/file has ended too early: " in case.refusal(replace(WANTED, size_bytes=len(CONTENT) + 9))
    assert case.ranges == [f"bytes={len(CONTENT) + 1}-", None]


def test_a_file_that_is_not_there_leaves_what_is(case):
    case.part.write_bytes(CONTENT[:5_000])
    assert case.refusal(addresses=[f"{case.publisher.url}/gone"]) == f"{case.publisher.url}/gone answers 404 Not Found"
    assert case.part.read_bytes() == CONTENT[:5_000]


def test_a_chunk_that_is_broken_is_one_line(case, monkeypatch):
    monkeypatch.setattr("leeway.worker.data.download.SILENCE_SECONDS", 0.5)
    begun = threading.Event()
    monkeypatch.setattr(case.watched, "received", lambda size_bytes: size_bytes and begun.set())
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as thread:

        def answer():
            taken, _ = listening.accept()
            with taken:
                taken.recv(65536)
                taken.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
                begun.wait()
                taken.sendall(b"zz\r\nabc\r\n")

        answered = thread.submit(answer)
        said = case.refusal(addresses=[f"http://127.0.0.1:{listening.getsockname()[1]}/file"])
        answered.result(30)
    assert re.search(rf"/file (broke off \(\w+\)|is silent): 3 of {len(CONTENT)} bytes are there, run this again", said)


def test_the_next_address_goes_on_with_what_the_first_one_sent(case):
    case.get(addresses=[f"{case.publisher.url}/gone", f"{case.publisher.url}/file"])
    assert case.file.read_bytes() == CONTENT
    assert case.watched.problems == [f"{case.publisher.url}/gone answers 404 Not Found; the next address is tried"]


def test_no_network_is_one_line(case):
    said = case.refusal(addresses=["http://127.0.0.1:1/file"])
    assert said.startswith("http://127.0.0.1:1/file cannot be reached (Cannot connect to host 127.0.0.1:1 ")


@pytest.mark.parametrize("address", ["file", "http://", "ftp://127.0.0.1/file", "http://a..b/file"])
def test_what_is_no_address_is_told(case, address):
    assert case.refusal(addresses=[address]) == f"{address!r} is no address of http or https with a host"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/file", "http://[::bad", "http://a..b/file"])
def test_where_it_is_sent_to_is_named_when_that_is_no_address(case, target):
    case.publisher.elsewhere["/file"] = target
    said = case.refusal()
    assert said == f"{case.publisher.url}/file redirects to {target!r}, which is no address of http or https"


def test_where_it_is_sent_to_is_named_whatever_happens_there(case):
    case.publisher.elsewhere["/file"] = "/gone"
    assert case.refusal() == f"{case.publisher.url}/file (redirected to '/gone') answers 404 Not Found"
    case.publisher.elsewhere["/file"] = "http://127.0.0.1:1/x"
    assert "/file (redirected to 'http://127.0.0.1:1/x') cannot be reached (" in case.refusal()
    case.publisher.elsewhere["/file"] = "/file"
    assert case.refusal().endswith("/file redirects again and again, at last to '/file'")
    case.publisher.elsewhere = {"/old": "/file"}
    case.get(addresses=[f"{case.publisher.url}/old"])
    assert case.file.read_bytes() == CONTENT


@pytest.mark.parametrize("proxy", ["nonsense", "127.0.0.1:3128", "socks5://127.0.0.1:1080", "http://u:secret@[::1"])
def test_a_proxy_that_is_none_is_named_by_its_variable(case, monkeypatch, proxy):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", proxy)
    assert case.refusal() == (
        "the environment variable HTTP_PROXY names no proxy: it must be an address such as http://proxy:3128"
    )
    assert case.publisher.asked == []
    # It is not asked for a host that goes without one.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert broken_proxy(f"{case.publisher.url}/file") is None


def test_a_proxy_that_cannot_be_reached_is_not_the_address(case, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert "/file cannot be reached through the proxy (Cannot connect to host 127.0.0.1:1 " in case.refusal()


def test_no_space_is_told_before_anything_is_fetched(case):
    said = case.refusal(replace(WANTED, size_bytes=10**18))
    assert said.startswith(f"no space: file needs {10**18} bytes more in {case.folder}, and ")
    assert case.publisher.asked == []
    assert not case.part.exists()


def test_what_the_system_refuses_to_write_is_one_line(case):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        assert case.refusal() == f"{case.file}: File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("place", ["file", "part"])
@pytest.mark.parametrize("what", ["a pipe", "a device"])
@pytest.mark.parametrize("linked", [False, True])
def test_what_may_never_end_is_not_opened(case, tmp_path, place, what, linked):
    path = {"file": case.file, "part": case.part}[place]
    other = tmp_path / "other" if linked else path
    if what == "a pipe":
        os.mkfifo(other)
    else:
        other, linked = Path("/dev/zero"), True
    if linked:
        path.symlink_to(other)
    with pytest.raises(DataError) as refused:
        case.get() if place == "part" else check(case.file, WANTED)
    assert str(refused.value) == f"{path}: it is {what}, where a regular file should be"


def test_a_folder_that_cannot_be_made_is_one_line(case, tmp_path):
    (tmp_path / "sub").write_text("a file")
    said = case.refusal(replace(WANTED, path="sub/file"))
    assert said == f"{tmp_path / 'sub'}: File exists"


def test_two_at_once_do_not_write_the_same_file(case):
    with case.part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert case.refusal() == f"{case.part} is being written by another ps-data; wait for its end, or end it"
    case.get()


def test_a_file_that_is_there_is_checked(case):
    case.file.write_bytes(CONTENT)
    check(case.file, WANTED)
    case.file.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DataError, match=r"is there, but its SHA-256 is \w+, not \w+: move it away and run this again"):
        check(case.file, WANTED)
