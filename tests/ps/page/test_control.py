"""The controls of the page: what is said before, what is changed then, what is refused; and hostile words."""

import urllib.error
import urllib.request

import numpy as np
import pytest

from tests.end_to_end.commands import SMALL, Commands
from tests.ps.server import rawclient

pytestmark = pytest.mark.e2e

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Commands(tmp_path_factory.mktemp("run")) as running:
        yield running


@pytest.fixture(scope="module")
def server(running):
    return running.serve("--mode", "async")


@pytest.fixture
def opened(page, running):
    """The dialog, in front of a run of three workers of which one is slow."""
    server = running.serve("--mode", "ssp", "--staleness", 2, "--workers", 3, "--optimizer", "momentum", "--lr", 0.01)
    workers = [
        running.work(SMALL, server, rank, "--batch-size", 8, "--start-together", 3, "--slow", slow)
        for rank, slow in (("w0", 0.02), ("w1", 0.02), ("tortoise", 1.0))
    ]
    page.open(server.url + "/")
    page.until(lambda: (page.lane("tortoise") or {}).get("awaited") == 2, "two that wait")
    page.find("#control").click()
    page.server = server
    yield page
    for process in (*workers, server):
        process.end()


def choose(page, **fields):
    for name, value in fields.items():
        page.js(
            "const node = document.getElementById(arguments[0]); node.value = arguments[1];"
            "node.dispatchEvent(new Event('input', {bubbles: true}))",
            name.replace("_", "-"),
            str(value),
        )


def confirm(page, part, words):
    button = page.find(f"#{part}-submit")
    page.until(lambda: button.is_enabled() and words in button.text, words)
    button.click()


def test_it_is_said_before_what_will_happen(opened):
    page, server = opened, opened.server
    page.until_text("#policy-foresight", "This is the policy in force.")
    assert not page.find("#policy-submit").is_enabled()

    choose(page, policy_mode="ssp", policy_bound=9)
    page.until_text("#policy-foresight", "w0 and w1 wait now and go on at once.")
    assert server.status()["groups"]["default"]["policy"]["staleness"] == 2, "nothing is done by looking"
    confirm(page, "policy", "Switch to ssp, at most 9 ahead")
    page.until_text("#policy-result", "Done.")
    page.until_text("#policy", "ssp: at most 9 ahead")

    choose(page, policy_mode="sync", policy_quorum="")
    page.until_text("#policy-foresight", "The first round opens at clock ", "The learning rate stays 0.01", "3 updates")
    confirm(page, "policy", "Switch to sync, all in rounds")
    page.until_text("#policy", "sync: all in rounds")

    choose(page, policy_mode="async")
    page.until_text("#policy-foresight", "nobody waits for anybody", "start from a rate 3 times smaller")
    assert not page.find("#policy-bound").is_displayed()

    choose(page, rate="0.005")
    page.until_text("#rate-foresight", "instead of 0.01, 2 times smaller", "Its momentum of 0.9 stays", "10 times")
    confirm(page, "rate", "Set the rate to 0.005")
    page.until_text("#rate-result", "Done.")
    assert server.ask("GET", "/v1/optimizer")["lr"] == 0.005
    page.until_text("#fact-rate", "0.005")
    assert [row for row in page.contrasts() if row[0] < 4.5] == []
    assert page.complaints() == []


def test_what_is_refused_is_said_where_it_was_asked_for(page, running):
    server = running.serve("--mode", "sync", "--aggregation", "krum:1", "--workers", 5)
    page.open(server.url + "/")
    page.until_text("#connection", "live")
    page.until(lambda: page.find("#control").is_displayed(), "the controls: here anybody is an admin")
    page.press("e")
    choose(page, policy_mode="async")
    page.until_text(
        "#policy-foresight", "The server would refuse it: the aggregation rule of group default is for rounds"
    )
    assert not page.find("#policy-submit").is_enabled()
    choose(page, policy_mode="sync", policy_quorum=6)
    page.until(lambda: page.find("#policy-submit").is_enabled(), "a quorum that is allowed")
    server.kill()
    page.js("document.getElementById('policy-form').requestSubmit()")
    page.until(lambda: not page.find("#control-dialog").is_displayed() or page.text("#policy-result"), "an end of it")


def test_who_is_kept_out_is_let_in(page, server):
    server.ask("PUT", "/v1/quarantine/w3", {"why": HOSTILE})
    page.open(server.url + "/")
    page.until(lambda: page.find("#control").is_displayed(), "the controls")
    page.find("#control").click()
    page.until_text("#quarantine-rows", f"w3: {HOSTILE}")
    page.until_text("#kept-out", f"Kept out: w3 ({HOSTILE}).")
    page.find("#quarantine-rows button").click()
    page.until(lambda: not page.find("#quarantine-part").is_displayed(), "nobody kept out")
    assert server.status()["quarantined"] == 0


def send(server, method, path, body=None):
    """Frames: the status."""
    headers = {"Content-Type": rawclient.FRAME, "Accept": rawclient.FRAME}
    request = urllib.request.Request(server.url + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_words_of_strangers_are_words(page, server):
    """Tensors, figures and reasons come from workers and people: none of it becomes a part of the page."""
    tensors = {HOSTILE: np.ones(2, np.float32)}
    assert send(server, "PUT", "/v1/params", rawclient.frame({}, tensors)) == 200
    life = server.ask("POST", "/v1/workers", {"rank": "w0", "session": "s"})
    named = {name: life[name] for name in ("epoch", "incarnation")} | {"rank": "w0"}
    query = "&".join(f"{name}={value}" for name, value in named.items())
    page.open(server.url + "/")
    page.until(lambda: page.lane("w0"), "the worker")

    def push(values, clock):
        assert send(server, "GET", f"/v1/params?{query}&clock={clock}") == 200
        message = named | {"clock": clock, "version": clock + 1, "kind": "gradient", "samples": 1}
        message["metrics"] = {HOSTILE: 1.0, "loss": 0.5}
        return send(server, "POST", "/v1/updates", rawclient.frame(message, {HOSTILE: values}))

    assert push(np.ones(2, np.float32), 0) == 200
    assert push(np.full(2, np.nan, np.float32), 1) == 422
    server.ask("PUT", "/v1/quarantine/w9", {"why": HOSTILE})
    page.until_text('.row[data-kind="non-finite"]', "<img src=x onerror=")
    page.until_text('.row[data-kind="quarantined"]', HOSTILE)
    page.until_text("#figures", HOSTILE)
    assert page.js("return document.querySelectorAll('img[onerror], [onerror], script:not([src])').length") == 0
    assert page.driver.title != "owned"
    assert page.complaints() == []
    # And whatever finds its way in all the same is not run: no script of the page's text, no code from strings.
    for attack in (
        "document.body.innerHTML = '<p>x</p>'",
        "const s = document.createElement('script'); s.text = 'document.title = \"owned\"'; document.body.append(s)",
        "document.body.setAttribute('onclick', 'document.title = \"owned\"'); document.body.click()",
    ):
        page.js(f"try {{ {attack} }} catch (error) {{ }}")
        assert page.driver.title != "owned"
    assert page.complaints(), "the browser says that it refused"


def test_an_insecure_server_is_told_loudly(page, running, server):
    insecure = running.serve("--insecure", "--host", "0.0.0.0")
    page.open(f"http://127.0.0.1:{insecure.url.rpartition(':')[2]}/")
    page.until(lambda: page.find("#insecure").is_displayed(), "the banner")
    assert "whoever reaches this server owns the model" in page.text("#insecure")
    page.open(server.url + "/")
    page.until_text("#connection", "live")
    assert not page.find("#insecure").is_displayed()
