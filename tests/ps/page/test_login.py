"""The page in front of a server that asks for tokens: logging in and out, and what ends a session."""

import re
import signal
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from leeway.protocol.rights import Caller, Right
from leeway.transport.credentials import tokens
from leeway.transport.credentials.tokens import Entry
from tests.end_to_end.commands import Commands

pytestmark = pytest.mark.e2e

TOKENS = {name: tokens.draw() for name in ("eye", "boss")}
RIGHTS = {"eye": Right.READER, "boss": Right.ADMIN}


def write(folder, names=TOKENS):
    path = folder / "tokens.toml"
    entries = [Entry(Caller(name, frozenset({RIGHTS[name]})), tokens.digest(TOKENS[name])) for name in names]
    path.write_text(tokens.written(entries))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Commands(tmp_path_factory.mktemp("run")) as running:
        yield running


@pytest.fixture(scope="module")
def server(running):
    return running.serve("--tokens", write(running.folder), "--workers", 3)


@pytest.fixture
def page(page):
    yield page
    page.driver.delete_all_cookies()


def asked(page, server):
    """The page in front of the login."""
    page.open(server.url + "/")
    page.until(lambda: page.find("#login").is_displayed(), "the login")
    return page


def log_in(page, token):
    page.find("#token").send_keys(token + "\n")


def logged_in(page, server, name):
    log_in(asked(page, server), TOKENS[name])
    page.until_text("#connection", "live")
    page.until_text("#log-out", f"Log out {name}")
    return page


def test_a_token_is_asked_for_and_nothing_is_seen_before(page, server):
    asked(page, server)
    assert page.text("#connection") == "not logged in"
    assert not page.find("main").is_displayed()
    assert page.js("return document.activeElement.id") == "token"
    assert page.find("#token").get_attribute("type") == "password"
    assert page.js("return document.querySelector('#token').labels[0].textContent") == "Token"
    assert page.text("#login-why") == ""
    log_in(page, "leeway_wrong")
    page.until_text("#login-refused", "Not logged in: this token is not known here")
    assert page.find("#token").get_attribute("value") == ""
    page.until(lambda: page.js("return document.activeElement.id") == "token", "the field again")
    assert [row for row in page.contrasts() if row[0] < 4.5] == []
    log_in(page, TOKENS["eye"])
    page.until_text("#connection", "live")
    assert not page.find("#login").is_displayed()
    assert page.find("main").is_displayed()


def test_the_token_stays_nowhere(page, server):
    logged_in(page, server, "eye")
    everything = (
        "return JSON.stringify([document.documentElement.outerHTML, location.href, history.length, document.cookie,"
        " Object.entries(localStorage), Object.entries(sessionStorage),"
        " [...document.querySelectorAll('input')].map((one) => one.value)])"
    )
    assert TOKENS["eye"] not in page.js(everything)
    assert page.js("return document.cookie") == "", "no script reads it"
    [cookie] = page.driver.get_cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert "expiry" not in cookie, "it goes with the browser"
    assert cookie["value"] != TOKENS["eye"]
    assert not any(TOKENS["eye"] in url for url in page.asked())
    # A tab that is opened again is known by the cookie alone.
    page.driver.refresh()
    page.until_text("#connection", "live")


def test_who_logs_out_sees_nothing_any_more(page, server):
    logged_in(page, server, "eye")
    page.until(lambda: page.text("#fact-epoch") != "–", "the run")
    page.find("#log-out").click()
    page.until(lambda: page.find("#login").is_displayed(), "the login")
    assert page.text("#fact-epoch") == "–"
    assert page.driver.get_cookies() == []
    assert not page.find("#log-out").is_displayed()


def test_a_token_that_is_not_taken_any_more_ends_the_session(page, server, running):
    logged_in(page, server, "eye")
    write(running.folder, ["boss"])
    server.signal(signal.SIGHUP)
    page.until_text("#login-why", "Your session has ended")
    assert not page.find("main").is_displayed()
    log_in(page, TOKENS["eye"])
    page.until_text("#login-refused", "not known here")
    write(running.folder)
    server.signal(signal.SIGHUP)
    page.until(lambda: "tokens and certificate were read anew" in server.said.split("\n", 1)[1], "the file read")
    page.until(lambda: server.said.count("were read anew") == 2, "both read")
    log_in(page, TOKENS["eye"])
    page.until_text("#connection", "live")


def test_a_server_that_was_started_anew_asks_again(page, running):
    flags = ("--tokens", write(running.folder))
    server = running.serve(*flags)
    logged_in(page, server, "eye")
    server.stop()
    page.until_text("#banner", "The server was stopped at ")
    running.serve(*flags, port=urllib.parse.urlsplit(server.url).port)
    page.until_text("#login-why", "Your session has ended", "the server was started anew")
    log_in(page, TOKENS["boss"])
    page.until_text("#log-out", "Log out boss")


def test_only_an_admin_has_controls(page, server):
    logged_in(page, server, "eye")
    assert not page.find("#control").is_displayed()
    page.press("e")
    assert not page.find("#control-dialog").is_displayed()
    # By hand it is refused, and so it is from a page of another origin.
    body = '{"mode": "ssp", "staleness": 1}'
    change = f"return fetch('/v1/policy', {{method: 'PUT', body: '{body}'}}).then((answer) => answer.status)"
    assert page.js(change) == 403
    page.find("#log-out").click()
    logged_in(page, server, "boss")
    page.until(lambda: page.find("#control").is_displayed(), "the controls")
    assert page.js(change) == 200


@pytest.fixture
def elsewhere():
    """The address of a page on another port of this host: the browser calls it the same site, and sends our cookie."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title><p>a page of somebody else")

        def log_message(self, *_):
            """It is of no interest."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_address[1]}/"
        finally:
            serving.shutdown()
            thread.join()


def test_a_page_of_another_origin_changes_nothing(page, server, elsewhere):
    def refused():
        _, _, text = server.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKENS['eye']}"})
        found = re.findall(
            r'^leeway_server_refused_total{code="foreign",route="/v1/checkpoints"} (\S+)', text.decode(), re.M
        )
        return sum(map(float, found))

    logged_in(page, server, "boss")
    page.open(elsewhere)
    script = (
        "const done = arguments[arguments.length - 1];"
        "fetch(arguments[0], {method: 'POST', mode: 'no-cors', credentials: 'include', body: '{}'})"
        ".then(() => done('sent'), () => done('not sent'));"
    )
    assert page.driver.execute_async_script(script, server.url + "/v1/checkpoints") == "sent"
    assert refused() == 1, "it came with the cookie of an admin, and was refused for its origin"
    # Nor is the page shown inside of it.
    page.js(
        "const frame = document.createElement('iframe'); frame.src = arguments[0]; document.body.append(frame)",
        server.url,
    )
    page.until(lambda: any("frame-ancestors" in row for row in page.complaints()), "that it may not be framed")
