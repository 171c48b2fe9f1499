"""The page in front of a real run: three workers under ssp, of which one is slow."""

import itertools
import json

import pytest
from selenium.webdriver.common.keys import Keys

from tests.end_to_end.commands import SMALL, Commands
from tests.ps.page.made_up import Case, messages

pytestmark = pytest.mark.e2e

BOUND = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Commands(tmp_path_factory.mktemp("run")) as running:
        server = running.serve("--mode", "ssp", "--staleness", BOUND, "--workers", 3)
        flags = ("--batch-size", 8, "--start-together", 3)
        running.workers(2, SMALL, server, *flags, "--slow", 0.02)
        running.work(SMALL, server, "tortoise", *flags, "--slow", 0.6)
        # Somebody waits from here on: the two others have used up their lead.
        server.version(at_least=12)
        yield server


@pytest.fixture
def live(page, server):
    page.open(server.url + "/")
    page.until_text("#connection", "live")
    page.until(lambda: page.lane("tortoise"), "a lane for each worker")
    return page


def test_who_is_waited_for_and_why(live):
    def all_told():
        lanes = {rank: live.lane(rank) for rank in ("w0", "w1", "tortoise")}
        slow = lanes.pop("tortoise")
        waits = f"waits for tortoise: {BOUND + 1} ahead, {BOUND} allowed"
        if all(lane["state"] == "waiting" and lane["words"] == [waits] for lane in lanes.values()):
            return slow
        return None

    slow = live.until(all_told, "that two wait for the third")
    assert slow == {"state": "computing", "awaited": 2, "words": ["2 wait for it", "computing"]}
    assert live.text("#headline") == "tortoise holds the others up"
    live.until(lambda: live.driver.title.startswith("tortoise holds"), "it in the title")
    live.until_text("#announcer", "tortoise holds the others up")
    # Behind the gate stands who waits; in natural order of the ranks.
    places = live.js(
        "const gate = Number(document.querySelector('#lanes').style.getPropertyValue('--gate'));"
        "return [...document.querySelectorAll('.lane')].map((lane) => [lane.dataset.rank, lane.dataset.state,"
        " Number(lane.style.getPropertyValue('--at')) > gate]);"
    )
    assert [rank for rank, _, _ in places] == ["tortoise", "w0", "w1"]
    assert all(beyond == (state == "waiting") for _, state, beyond in places), places


def test_the_head_and_the_panels_tell_the_state(live, server):
    assert live.text("#policy") == f"ssp: at most {BOUND} ahead"
    assert live.text("#fact-workers") == "3"
    live.until(lambda: live.text("#fact-epoch") == str(server.status()["epoch"]), "the epoch")
    live.until(lambda: float(live.text("#steps-rate").replace("–", "0")) > 0, "steps a second")
    live.until(lambda: live.find("#held-bars .held-row").text.startswith("tortoise"), "the tortoise first")
    live.until(lambda: "%" in live.text(".lane[data-rank=w0] .share"), "a share of waiting")
    live.until(lambda: live.js("return document.querySelector('#curve-chart path.figure')"), "the loss")
    counts = live.js("return [...document.querySelectorAll('#staleness-bars .count')].map((one) => one.textContent)")
    assert sum(int(count) for count in counts) > 0
    assert live.text("#figures") == "loss"
    kinds = set(live.js("return [...document.querySelectorAll('.row')].map((row) => row.dataset.kind)"))
    assert {"joined", "waits"} <= kinds


def test_a_switch_of_the_policy_is_seen(live, server):
    try:
        server.ask("PUT", "/v1/policy", {"mode": "ssp", "staleness": 1})
        live.until(lambda: live.text("#policy") == "ssp: at most 1 ahead", "the new bound")
        live.until_text('.row[data-kind="switched"]', "ssp")
        live.until_text("#axis", "bound 1")
        live.until(lambda: "2 ahead, 1 allowed" in str(live.lane("w0")["words"]), "the new reason")
    finally:
        server.ask("PUT", "/v1/policy", {"mode": "ssp", "staleness": BOUND})


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_every_text_stands_out(live, scheme):
    live.prefer(color_scheme=scheme, reduced_motion="reduce")
    ground = live.js("return getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(f"[{ground.partition('(')[2].rstrip(')')}]")) < 384) == (scheme == "dark")
    live.until(
        lambda: live.js("return document.querySelector('.lane[data-awaited] .awaited:not([hidden])')"), "awaited"
    )
    found = live.contrasts()
    assert len(found) > 40
    assert [row for row in found if row[0] < 4.5] == []


def test_the_theme_is_chosen_and_kept(live):
    def ground():
        return live.js("return getComputedStyle(document.body).backgroundColor")

    system = ground()
    seen = []
    for _ in range(3):
        live.press("t")
        seen.append((live.text("#theme-name"), ground()))
    assert [name for name, _ in seen] == ["light", "dark", "system"]
    assert seen[0][1] == seen[2][1] == system != seen[1][1]
    live.find("#theme").click()
    live.find("#theme").click()
    live.driver.refresh()
    live.until(lambda: live.text("#theme-name") == "dark", "the choice of before")
    assert ground() == seen[1][1]


def test_a_phone_shows_it_without_scrolling_sideways(live):
    live.resize(360, 760)
    live.until_text("#held-bars", "tortoise")
    assert live.js("return document.documentElement.scrollWidth") <= 360
    cut = live.js(
        "return [...document.querySelectorAll('main *, header *')].filter((node) => node.checkVisibility()"
        " && !node.closest('.unseen, .drawing, select, .course')"
        " && node.getBoundingClientRect().right > innerWidth).map((node) => node.outerHTML.slice(0, 120))"
    )
    assert cut == []


def test_it_works_with_the_keyboard_alone(live):
    live.press(Keys.TAB)
    assert live.js("return document.activeElement.className") == "skip"
    reached = set()
    for _ in range(40):
        live.press(Keys.TAB)
        # A choice is a radio button below its words, which show the focus for it.
        name, outline = live.js(
            "const at = document.activeElement;"
            "const shown = at.type === 'radio' ? at.nextElementSibling : at;"
            "return [at.id || at.name || at.className || at.tagName, getComputedStyle(shown).outlineStyle]"
        )
        if name == "BODY":
            break
        reached.add(name)
        assert outline != "none", name
    assert {"theme", "help", "lane", "figure", "over", "curve-chart", "log-kind", "log-rank", "log"} <= reached

    live.press("r")
    assert live.js("return document.activeElement.dataset.rank") == "tortoise"
    live.press(Keys.ARROW_DOWN)
    assert live.js("return document.activeElement.dataset.rank") == "w0"
    live.press(Keys.ENTER)
    live.until(lambda: live.find("#log-rank").get_attribute("value") == "w0", "the decisions about w0")
    live.until(
        lambda: set(live.js("return [...document.querySelectorAll('.row .rank')].map((n) => n.textContent)")) == {"w0"},
        "w0 alone",
    )
    live.press(Keys.ESCAPE)
    live.until_text("#log", "tortoise")

    live.press("c")
    first = live.until(lambda: live.text("#curve-chart output"), "the newest point")
    live.press(Keys.HOME)
    assert live.text("#curve-chart output") != first
    assert live.js("return document.querySelectorAll('#curve-chart .cursor').length") == 1

    live.press("?")
    assert live.find("#help-dialog").is_displayed()
    live.press("t")
    assert live.text("#theme-name") == "system", "keys rest while the list is open"
    live.press(Keys.ESCAPE)
    assert not live.find("#help-dialog").is_displayed()
    live.press("/", "t")
    assert live.find("#log-rank").get_attribute("value") == "t"
    assert live.text("#theme-name") == "system", "who types means letters"


def test_it_asks_nobody_but_its_server_and_complains_of_nothing(page, server):
    page.asked()
    page.complaints()
    page.open(server.url + "/")
    page.until_text("#headline", "tortoise")
    asked = [url for url in page.asked() if not url.startswith(("about:", "data:", "chrome"))]
    assert f"{server.url}/v1/events" in asked
    assert [url for url in asked if not url.startswith(server.url + "/")] == []
    assert page.complaints() == []
    styled = page.js("return document.querySelectorAll('[onclick], [onload], script:not([src])').length")
    assert styled == 0


def test_runners_stand_where_their_clocks_were_measured(live):
    """A place is a whole number of iterations; the style sheet alone may glide between two of them."""
    seen = set()
    for _ in itertools.repeat(None, 20):
        seen.update(
            live.js(
                "const last = Number(document.querySelector('#lanes').style.getPropertyValue('--columns'));"
                "return [...document.querySelectorAll('.lane')].map((lane) =>"
                " Math.round((Number(lane.style.getPropertyValue('--at')) * last - 0.5) * 100) / 100)"
            )
        )
    assert all(place == int(place) for place in seen), seen


def test_what_the_matrix_makes_up_has_the_shape_of_what_a_server_tells(server):
    told = server.status()
    (made, *_) = [data for event, data, _ in messages(Case(3, "ssp")) if event == "status"]
    assert set(made) == set(told)
    assert set(made["groups"]["default"]) == set(told["groups"]["default"])
    assert set(made["workers"][0]) == set(told["workers"][0])
    assert set(made["workers"][0]["groups"]["default"]) - {"why"} == set(told["workers"][0]["groups"]["default"]) - {
        "why"
    }
