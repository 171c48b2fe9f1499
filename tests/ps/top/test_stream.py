import json
import socket
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeway.ps.top import stream
from leeway.ps.top.stream import Lost, Message, Parser, Refused, listen
from tests.ps.top.telling import Script, decision, message, status, telling

TOLD = (
    b"event: status\ndata: {}\n\n"
    b": a comment\n\n"
    b"event: decision\r\nid: 7\r\ndata: 1\r\ndata:2\r\n\r\n"
    b"data: \xc3\xa4\rid\rnonsense: 1\r\r"
    b"event: nothing to tell\n\n"
    b"id: 9\ndata:  two spaces\nretry: 10\n\n"
    b"event: unfinished\ndata: 1\n"
)
MESSAGES = [
    ("status", "{}", ""),
    ("decision", "1\n2", "7"),
    ("message", "ä", ""),
    ("message", " two spaces", "9"),
]


def heard(*pieces):
    parser = Parser()
    return [one for piece in pieces for one in parser.feed(piece)]


def test_a_stream_in_one_piece():
    assert heard(TOLD) == MESSAGES


def test_a_stream_byte_by_byte():
    assert heard(*(TOLD[place : place + 1] for place in range(len(TOLD)))) == MESSAGES


@given(st.lists(st.integers(0, len(TOLD)), max_size=6))
def test_a_stream_in_any_pieces(places):
    edges = [0, *sorted(places), len(TOLD)]
    assert heard(*(TOLD[begin:end] for begin, end in pairwise(edges))) == MESSAGES


def test_an_id_stays_until_the_next_one():
    assert heard(b"id: 1\ndata: a\n\ndata: b\n\nid: 2\0\ndata: c\n\n") == [
        ("message", "a", "1"),
        ("message", "b", "1"),
        ("message", "c", "1"),
    ]


def test_a_message_has_a_limit(monkeypatch):
    monkeypatch.setattr(stream, "MAX_MESSAGE_BYTES", 100)
    assert heard(b"data: " + b"x" * 90 + b"\n\n" + b"data: " + b"x" * 90 + b"\n\n")
    with pytest.raises(ValueError, match="more than 100 bytes"):
        heard(b"data: " + b"x" * 101)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        heard(*[b"data: xxxxxxxxxx\n"] * 11)


def test_what_a_server_tells():
    body = message("status", status()) + message("decision", decision(5, "joined", "here"), 5)
    with telling(Script(body, ends=True)) as server:
        listening = listen(server.url, "4")
        assert next(listening) == Message("status", status())
        assert next(listening) == Message("decision", decision(5, "joined", "here"), "5")
        with pytest.raises(Lost, match="has ended the connection"):
            next(listening)
        assert server.asked == [("/v1/events", "4")]


def test_a_silent_server_is_lost():
    with telling(Script(message("status", {}))) as server:
        listening = listen(server.url, silence_seconds=0.1)
        assert next(listening).event == "status"
        with pytest.raises(Lost, match="is silent"):
            next(listening)
        assert server.asked == [("/v1/events", None)]


def test_nobody_listens_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Lost, match=f"no connection to http://127.0.0.1:{port}: Connection refused"):
        next(listen(f"http://127.0.0.1:{port}"))


PROBLEM = json.dumps({"detail": "64 are watching already", "code": "busy"}).encode()


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (Script(b"hello", ends=True, kind="text/html"), Refused, r"answered with text/html; is that a Leeway server\?"),
        (Script(b"", ends=True, code=404, kind="text/html"), Refused, r"answered HTTP 404; is that a Leeway server\?"),
        (Script(PROBLEM, ends=True, code=503, kind="application/problem+json"), Lost, "64 are watching already"),
        (Script(b"[", ends=True, code=401, kind="application/problem+json"), Refused, "answered HTTP 401"),
        (Script(b"", ends=True, code=502, kind="text/html"), Lost, "answered HTTP 502"),
        (Script(b"data: {\n\n", ends=True), Refused, "cannot be read"),
        (Script(b"data: \xff\n\n", ends=True), Refused, "cannot be read"),
        (Script(b"data: " + b"[" * 100_000 + b"\n\n", ends=True), Refused, "cannot be read: nested too deep"),
        (Script(b"[" * 60_000, ends=True, code=401, kind="application/problem+json"), Refused, "answered HTTP 401"),
    ],
)
def test_whoever_is_no_server_is_told_apart(script, error, words):
    with telling(script) as server, pytest.raises(error, match=words):
        next(listen(server.url))


def test_a_server_that_speaks_no_http():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        listening = listen(url, silence_seconds=0.1)
        with pytest.raises(Lost, match=r"is silent|no answer"):
            next(listening)
