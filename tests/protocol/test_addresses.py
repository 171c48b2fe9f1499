from __future__ import annotations

import pytest

from leeway.protocol.addresses import server_url


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
