"""Two hundred workers, several groups, and names that are meant to do harm."""

import pytest
import torch

import leeway

pytestmark = pytest.mark.e2e

MANY = 200


def test_two_hundred_workers_are_a_field_first_and_lanes_when_asked(page, commands):
    server = commands.serve("--mode", "async", "--lease", 600, "--log-level", "error")
    for index in range(MANY):
        server.ask("POST", "/v1/workers", {"rank": f"w{index}", "session": str(index)})
    page.open(server.url + "/")
    page.until(lambda: page.text("#fact-workers") == str(MANY), "all workers")
    count = "return document.querySelectorAll('.lane').length"
    assert page.js(count) == 12
    page.until_text("#field", f"{MANY} on the way")
    page.find("#show-all").click()
    page.until(lambda: page.js(count) == MANY, "all lanes")
    ranks = page.js("return [...document.querySelectorAll('.lane')].map((lane) => lane.dataset.rank)")
    assert ranks == [f"w{index}" for index in range(MANY)]
    heights = page.js(
        "return [...document.querySelectorAll('.lane')].map((lane) => lane.getBoundingClientRect().height)"
    )
    assert max(heights) <= 30
    page.press("a")
    page.until(lambda: page.js(count) == 12, "the field again")
    page.resize(360, 760)
    assert page.js("return document.documentElement.scrollWidth") <= 360


def test_a_name_is_a_name_whatever_stands_in_it(page, commands):
    harm = "<img src=x onerror=\"document.title='owned'\">"
    server = commands.serve("--mode", "async")
    with leeway.connect(server.url, rank="w0") as session:
        model = torch.nn.Linear(2, 1)
        session.attach(model)
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            session.step(samples=1, metrics={harm: 1.0})
        page.open(server.url + "/")
        page.until_text("#figures", harm)
        page.until_text("#figure-head", harm)
    assert page.js("return document.images.length") == 1, "the page's own icon"
    assert "owned" not in page.driver.title
    assert page.complaints() == []


def test_each_group_is_shown_with_its_own_policy(page, commands):
    (commands.folder / "groups.toml").write_text(
        'mode = "ssp"\nstaleness = 3\n[group.embedding]\nkeys = ["embedding.*"]\nmode = "async"\n'
    )
    server = commands.serve("--config", "groups.toml", "--lease", 600)
    server.ask("POST", "/v1/workers", {"rank": "both", "session": "1"})
    server.ask("POST", "/v1/workers", {"rank": "dense", "session": "2", "groups": ["default"]})
    page.open(server.url + "/")
    page.until(lambda: page.lane("dense"), "who is in the group default")
    assert page.text("#policy") == "ssp: at most 3 ahead"
    page.press("g")
    page.until(lambda: page.text("#policy") == "async: no bound", "the other group")
    assert page.lane("both")
    assert page.lane("dense") is None
    assert page.find("#group").get_attribute("value") == "embedding"
