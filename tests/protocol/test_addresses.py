from __future__ import annotations

import pytest

from leeway.protocol.addresses import in_the_clear, is_loopback, server_url


@pytest.mark.parametrize("text", ["http://localhost:8080", "https://[::1]:1/base/", "http://a.b"])
def test_addresses(text):
    assert server_url(text) == text.rstrip("/")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("localhost:8080", "has no scheme; write http://localhost:8080"),
        ("ftp://x", "has scheme 'ftp'"),
        ("http://", "must be scheme, host"),
        ("http://x:y", "is no URL"),
        ("http://u:p@x", "must be scheme, host"),
        ("http://x?a=1", "must be scheme, host"),
        ("http://a b", "has a space"),
        ("http://a\tb", "has a space or a character that is not seen"),
        ("http://a\x00b", "has a space or a character that is not seen"),
        ("http://a..b", "has the host 'a..b', which no host can have as its name"),
        (f"http://{'a' * 64}", "which no host can have"),
        (f"http://{'a.' * 200}b", "which no host can have"),
        (None, "the server's address is None; it must be text"),
        (80, "the server's address is 80; it must be text"),
    ],
)
def test_addresses_that_are_none(text, words):
    with pytest.raises(ValueError, match=words):
        server_url(text)


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("LocalHost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "10.0.0.7", "trainer", "localhost.example.com", "127.1", "")],
)
def test_what_is_beyond_this_machine(host, inside):
    assert is_loopback(host) is inside


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        ("http://trainer:8080", True),
        ("http://[2001:db8::1]:1/x", True),
        ("https://trainer:8080", False),
        ("http://127.0.0.1:8080", False),
        ("http://[::1]:8080", False),
        ("http://localhost", False),
        ("http://", True),
    ],
)
def test_what_can_be_read_on_its_way(url, clear):
    assert in_the_clear(url) is clear
