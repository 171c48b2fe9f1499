"""The listening thread and the terminal: against a server that says what it is told to, over real HTTP."""

import signal

import pytest

from leeway.ps.top.watching import Unwatchable, once
from tests.ps.top.telling import Script, decision, leads, message, status, telling, worker
from tests.ps.top.terminal import PATIENCE_SECONDS, Terminal

LATER = message(
    "status", status(worker("w0", 9, 4, "waiting", why=leads("w0", "w1", 4, 3)), worker("w1", 5), seconds=12.0)
)
TOLD = message("status", status(worker("w0", 5), worker("w1", 5))) + message("decision", decision(7, "joined", "x"), 7)


def test_a_snapshot(capsys):
    with telling(Script(TOLD + LATER)) as server:
        once(server.url, None)
    shown = capsys.readouterr().out
    assert "WAITED FOR, computes" in shown
    assert "waits for w1: 4 ahead, max 3" in shown
    assert "joined" in shown
    assert "\x1b" not in shown


def test_a_snapshot_of_a_server_that_ends_meanwhile(capsys):
    with telling(Script(TOLD, ends=True)) as server:
        once(server.url, None)
    assert "w0 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (Script(ends=True), "has ended the connection"),
        (Script(ends=True, code=404), "is that a Leeway server"),
        (Script(message("status", {"groups": {}}), ends=True), "tells what cannot be read|uptime|epoch"),
        (Script(message("status", [1]), ends=True), "tells what cannot be read"),
        (Script(TOLD, ends=True), "there is no group 'other'; this server has default"),
    ],
)
def test_nothing_to_watch(script, words):
    with telling(script) as server, pytest.raises(Unwatchable, match=words):
        once(server.url, "other" if script.body == TOLD else None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_is_left_as_it_was_found(number):
    with telling(Script(TOLD + LATER)) as server, Terminal(server.url, "--refresh", "0.1") as terminal:
        terminal.see("WAITED FOR, computes")
        assert terminal.end(number) == 0
    assert terminal.shown.count("\x1b[?1049h") == 1
    assert terminal.shown.count("\x1b[?1049l") == 1
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")
    assert "Traceback" not in terminal.shown


def test_a_server_that_goes_away_and_comes_back():
    scripts = Script(TOLD, ends=True), Script(b"", ends=True, code=503), Script(LATER)
    with telling(*scripts) as server, Terminal(server.url, "--refresh", "0.1", NO_COLOR="1") as terminal:
        terminal.see("the server does not answer since")
        terminal.see("WAITED FOR, computes")
        assert terminal.end(signal.SIGINT) == 0
        # It went on from where it had been cut off.
        assert server.asked == [("/v1/events", None), ("/v1/events", "7"), ("/v1/events", "7")]
    assert "\x1b[31m" not in terminal.shown
    assert "\x1b[1;31m" not in terminal.shown


def test_no_server_from_the_beginning():
    with telling(Script(ends=True, code=404)) as server, Terminal(server.url) as terminal:
        terminal.see("is that a Leeway server?")
        assert terminal.popen.wait(PATIENCE_SECONDS) == 1
    assert "\x1b[?1049h" not in terminal.shown
