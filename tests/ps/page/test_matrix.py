"""The page in every situation and at every width: nothing lies on, beside or outside of where it should, and its words
agree with each other."""

import pytest

from tests.ps.page.made_up import Case, telling
from tests.ps.page.matrix import CASES, NAN, WIDTHS, disagreements, faults, settle, show

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server():
    with telling() as server:
        yield server


# What some of the cases say: the headline, and the title of the window.
SAID = {
    Case(12, "ssp", "switched"): ("w9 holds the others up", "w9 holds others up · Leeway"),
    Case(2, "sync", "switched"): ("w1 holds the others up", "w1 holds others up · Leeway"),
    Case(2, "ssp"): ("w1 holds the others up", "w1 holds others up · Leeway"),
    Case(12, "async"): ("Nobody holds the others up", "running · Leeway"),
    Case(12, "ssp", "empty"): ("No worker has joined yet", "no worker · Leeway"),
    Case(0, "sync", "empty", stages=4, forming=2): ("w0 waits for stages 1, 2 and 3", "waiting for stages · Leeway"),
    Case(12, "ssp", "gone"): ("No worker is here", "no worker · Leeway"),
    Case(12, "ssp", "finished"): ("The run has finished at clock 1\u202f000", "server ended · Leeway"),
    Case(12, "ssp", "stopping"): ("The server is stopping", "server ended · Leeway"),
    Case(12, "ssp", "lost"): ("w9 holds the others up", "no answer · Leeway"),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_everything_is_in_its_place(page, server, case):
    found = {}
    for width in WIDTHS:
        page.resize(width, 900)
        if width == WIDTHS[0]:
            show(page, server, case)
        settle(page)
        found[width] = faults(page)
    assert found == {width: [] for width in WIDTHS}
    assert page.complaints() == [] or case.phase in ("finished", "stopping", "lost")
    if case in SAID:
        headline, title = SAID[case]
        assert page.text("#headline") == headline
        page.until(lambda: page.driver.title == title, f"the title {title}")


def test_all_that_is_expected_is_looked_at():
    assert set(SAID) <= set(CASES)


@pytest.mark.parametrize("workers", [30, 200])
def test_who_is_waited_for_is_in_sight(page, server, workers):
    case = Case(workers)
    show(page, server, case)
    first = page.js("return document.querySelector('.lane').dataset.rank")
    assert first == case.slow
    bottom = page.js("return document.querySelector('.lane[data-awaited]').getBoundingClientRect().bottom")
    assert bottom <= 900


def test_few_lanes_stay_in_the_order_of_their_ranks(page, server):
    show(page, server, Case(8))
    ranks = page.js("return [...document.querySelectorAll('.lane')].map((lane) => lane.dataset.rank)")
    assert ranks == [f"w{number}" for number in range(8)]


@pytest.mark.parametrize("phase", ["gone", "finished"])
def test_who_held_the_others_is_known_when_all_have_left(page, server, phase):
    show(page, server, Case(12, "ssp", phase))
    rows = page.js("return [...document.querySelectorAll('.held-row')].map((row) => row.innerText.split('\\n')[0])")
    assert rows == ["w9"]
    assert "left" in page.find(".held-row").get_attribute("title")
    assert "Nobody has waited" not in page.text("#held-note")


def test_of_those_that_left_before_nothing_is_claimed(page, server):
    case = Case(2, "async", "gone")
    show(page, server, case)
    assert page.text("#held-note") == "No worker is here; of those that have left it is not known."
    show(page, server, Case(2, "async"))
    assert page.text("#held-note") == "So far nobody has waited for anybody."


@pytest.mark.parametrize(
    ("loss", "words"),
    [(4e9, "4.00\u2009e9"), (NAN, "NaN")],
)
def test_a_loss_of_any_size(page, server, loss, words):
    show(page, server, Case(2, losses=(2.3, loss)))
    assert page.text(".lane[data-rank=w0] .number:nth-of-type(6)") == words
    assert (page.text("#curve-note") == "loss is not finite (NaN or infinity)") == (loss is NAN)


def test_a_speed_of_the_past_is_told_as_that(page, server):
    show(page, server, Case(2, "ssp", "gone"))
    assert page.text("#speed-chart output").startswith("last, at 55 s: ")
    show(page, server, Case(2, "ssp"))
    assert page.text("#speed-chart output").startswith("1 min 35 s: ")


def test_what_contradicts_itself_is_found():
    assert disagreements(
        "Nobody holds the others up", "2 workers wait now for w1. All are at the same clock.", "running"
    )
    assert disagreements("Nobody holds the others up", "1 worker waits now for tortoise. All are here.", "running")
    assert disagreements("w1 holds the others up", "w1 was waited for.", "w1 holds 0 up · Leeway")
    assert not disagreements("w1 holds the others up", "2 workers wait now for w1. The fastest is 4 ahead.", "w1 holds")
    assert not disagreements("Nobody holds the others up", "2 workers wait now, not for long yet.", "running")
