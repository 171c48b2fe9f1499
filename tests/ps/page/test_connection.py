"""What the page says when the server is not there, comes back, stops or finishes."""

import urllib.parse

import pytest

from tests.end_to_end.commands import SMALL

pytestmark = pytest.mark.e2e


def port_of(server):
    return urllib.parse.urlsplit(server.url).port


def test_before_any_worker_it_says_what_to_do(page, commands):
    server = commands.serve()
    page.open(server.url + "/")
    page.until_text("#headline", "No worker has joined yet")
    assert page.text("#command") == f"ps-worker digits --server {server.url} --rank w0"
    assert page.find("#welcome").is_displayed()
    assert not page.find("#race").is_displayed()


def test_a_killed_server_is_told_and_its_successor_found(page, commands):
    server = commands.serve("--lease", 600)
    server.ask("POST", "/v1/workers", {"rank": "before", "session": "1"})
    page.open(server.url + "/")
    page.until(lambda: page.lane("before"), "the worker")
    server.kill()
    text = page.until_text("#banner", "The server does not answer since ", "trying again")
    assert text.split("since ")[1][2] == ":"
    assert page.find("#banner").is_displayed()
    assert "grayscale" in page.js("return getComputedStyle(document.querySelector('main')).filter")
    assert page.lane("before"), "what was known stays, marked as old"
    page.until(lambda: page.driver.title == "no answer · Leeway", "it in the title")
    page.until_text("#announcer", "does not answer")

    again = commands.serve("--lease", 600, port=port_of(server))
    again.ask("POST", "/v1/workers", {"rank": "after", "session": "2"})
    page.until(lambda: page.lane("after"), "the new run")
    assert page.lane("before") is None
    assert not page.find("#banner").is_displayed()
    assert page.js("return getComputedStyle(document.querySelector('main')).filter") == "none"
    page.until(lambda: page.text(".row .rank") == "after", "the log of the new run")
    assert "before" not in page.text("#log"), "the old run's decisions went with it"


def test_a_stop_on_purpose_is_told_as_that(page, commands):
    server = commands.serve()
    page.open(server.url + "/")
    page.until_text("#connection", "live")
    server.stop()
    page.until_text("#banner", "The server was stopped at ")
    assert page.text("#connection") == "server ended"
    page.until_text("#headline", "The server is stopping")


def test_the_end_of_a_run_is_told(page, commands):
    server = commands.serve("--until", 20)
    page.open(server.url + "/")
    page.until_text("#connection", "live")
    commands.work(SMALL, server, "w0", "--batch-size", 8, "--slow", 0.02)
    page.until_text("#headline", "The run has finished at clock 20")
    page.until_text("#banner", "The run has finished, and the server ended at ")
