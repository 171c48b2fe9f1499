"""Keys, sizes and endings of `ps-top`, in a real terminal."""

import os
import signal
import subprocess

import pytest

from leeway.ps.top import keys
from tests.ps.top.telling import Script, leads, message, status, telling, worker
from tests.ps.top.terminal import Terminal

SLOW = "w17"


def crowd(count=30, slow=SLOW):
    def one(rank):
        if rank == slow:
            return worker(rank, 10, loss=0.5)
        return worker(rank, 14, 4, "waiting", why=leads(rank, slow, 4, 3), loss=0.5)

    return [one(f"w{number}") for number in range(count)]


RUN = Script(message("status", status(*crowd(), staleness=(5, 3))))


def lanes(picture):
    return [line for line in picture if line.startswith("w") and not line.startswith("worker")]


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (120, 40), (40, 10), (200, 60)])
def test_as_many_workers_as_there_are_lines(columns, lines):
    many = min(30, lines - 5)

    def is_whole(picture):
        # A picture may arrive in two pieces: the line that counts the rest comes last.
        return len(lanes(picture)) == many and (many == 30 or any(line.startswith("... and") for line in picture))

    with telling(RUN) as server, Terminal(server.url, columns=columns, lines=lines) as top:
        picture = top.picture(is_whole)
        assert len(picture) <= lines
        assert max(len(line) for line in picture) <= columns
        seen = lanes(picture)
        assert seen[0].startswith(SLOW) == (lines < 35), "first, when not all have room"
        # Head, the lanes' head, and the line that counts the rest.
        assert len(seen) == min(30, lines - 5)
        assert any(line.startswith(f"... and {30 - len(seen)} more") for line in picture) == (len(seen) < 30)
        assert any("WAITED FOR by 29" in line for line in seen)
        assert top.end(signal.SIGINT) == 0


def test_a_terminal_that_changes_its_size():
    with telling(RUN) as server, Terminal(server.url, "--refresh", "60", COLUMNS="80", LINES="24") as top:
        top.picture(lambda one: len(lanes(one)) == 19)
        for columns, lines, many in ((120, 40, 30), (40, 10, 5), (100, 30, 25)):
            top.resize(columns, lines)
            picture = top.picture(lambda one, many=many: len(lanes(one)) == many)
            assert max(len(line) for line in picture) <= columns
        top.type("q")
        assert top.end() == 0


@pytest.mark.parametrize("way", ["q", "Q", "\x03", "\x1c", signal.SIGTERM, signal.SIGHUP], ids=repr)
def test_every_way_out_leaves_the_terminal_as_it_was_found(way):
    with telling(RUN) as server, Terminal(server.url, "--refresh", "0.1") as top:
        top.see("WAITED FOR by 29")
        assert not top.is_as_found()
        if isinstance(way, str):
            top.type(way)
        assert top.end(None if isinstance(way, str) else way) == 0
        assert top.is_as_found()
        assert top.shown.count("\x1b[?1049h") == 1
        assert "Traceback" not in top.shown


def test_what_goes_wrong_meanwhile_leaves_it_so_too():
    other = status(groups={"other": status()["groups"]["default"]}, seconds=20.0)
    scripts = Script(message("status", status(*crowd())), ends=True), Script(message("status", other))
    with telling(*scripts) as server, Terminal(server.url, "--refresh", "0.1", "--group", "default") as top:
        assert top.end() == 1
        assert top.is_as_found()
        assert "there is no group 'default'; this server has other" in top.shown
        assert "Traceback" not in top.shown


def test_help_is_a_page_that_goes_as_it_came():
    with telling(RUN) as server, Terminal(server.url, "--refresh", "60") as top:
        picture = top.picture(lambda one: len(lanes(one)) == 19)
        assert picture[0].endswith("? help")
        top.type("?")
        page = top.picture(lambda one: any(line.startswith("staleness") for line in one))
        told = {line.split()[0] for line in page if line.strip()}
        assert {"q", "?", "clock", "lag", "waited", "loss", "staleness"} <= told
        top.type("?")
        top.picture(lambda one: len(lanes(one)) == 19)
        # What arrow keys and Alt with a letter send is none of the keys, whatever letters are in it.
        top.type("\x1b[A\x1bOq\x1bq?")
        top.picture(lambda one: "? goes back" in one[0])
        top.type("\x1b")
        top.picture(lambda one: len(lanes(one)) == 19)
        top.type("q")
        assert top.end() == 0


def test_suspended_and_taken_up_again():
    with telling(RUN) as server, Terminal(server.url, "--refresh", "0.1") as top:
        top.see("WAITED FOR by 29")
        top.type("\x1a")
        top.until(lambda: stopped(top.popen.pid), "that it is stopped")
        while top._read(0.0):
            pass
        assert top.is_as_found(), "the shell has its terminal"
        since = len(top.shown)
        os.kill(top.popen.pid, signal.SIGCONT)
        top.see("WAITED FOR by 29", since)
        top.type("q")
        assert top.end() == 0
        assert top.is_as_found()


def stopped(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def test_without_a_terminal_to_type_at_it_draws_all_the_same():
    with telling(RUN) as server, Terminal(server.url, "--refresh", "0.1", stdin=subprocess.DEVNULL) as top:
        picture = top.picture(lambda one: len(lanes(one)) == 19)
        assert "help" not in picture[0]
        top.type("q")
        since = len(top.shown)
        top.see("WAITED FOR by 29", since)
        assert top.end(signal.SIGINT) == 0
        assert top.is_as_found()


@pytest.mark.parametrize(
    ("data", "found"),
    [(b"q", "q"), (b"\x1b[Aq\x1bOP?", "q?"), (b"\x1bq", ""), (b"\x1b[200~q\x1b[201~", "q"), (b"\xff\xc3\xa4", "ä")],
)
def test_what_is_a_key(data, found):
    assert keys.parse(data) == found
