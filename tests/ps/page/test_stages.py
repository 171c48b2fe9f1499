"""The page in front of real replicas: one of two stages, of which the second is slow, and one that lacks a stage."""

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.end_to_end.commands import ROOT, Commands

pytestmark = pytest.mark.e2e

SEGMENTS = (
    "return [...document.querySelectorAll(arguments[0] + ' .stage')]"
    ".map((one) => [one.dataset.state, one.hasAttribute('data-holding'), one.textContent]);"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The commands and the server."""
    with Commands(tmp_path_factory.mktemp("run")) as running:
        server = running.serve("--mode", "async", "--lr", 0.01, "--lease", 2)
        stages = [running.stage(server, "r0", number, nap) for number, nap in ((0, 0.002), (1, 0.05))]
        running.stage(server, "r1", 1)
        server.version(at_least=4)
        yield server, stages


@pytest.fixture
def live(page, run):
    server, _ = run
    page.open(server.url + "/")
    page.until_text("#connection", "live")
    page.until(lambda: page.lane("r0"), "a lane for the replica")
    return page


def test_the_stage_that_holds_the_others_is_marked(live):
    def told():
        segments = live.js(SEGMENTS, ".lane[data-rank=r0]")
        return segments if [holds for _, holds, _ in segments] == [False, True] else None

    quick, slow = live.until(told, "that the second one holds the first")
    assert slow[2].startswith("1 holds the others, ")
    assert quick[2].startswith("0 ")
    busy = [int(words.split(", ")[1].removesuffix("\u202f% busy")) for _, _, words in (quick, slow)]
    assert busy[0] < 50 < busy[1]


def test_the_status_says_what_each_stage_computed_and_which_one_holds(run):
    server, _ = run
    status = server.status()
    api = yaml.safe_load((ROOT / "ps" / "server" / "http" / "openapi.yaml").read_text())
    schema = {"$ref": "#/components/schemas/Status", "components": api["components"]}
    Draft202012Validator(schema).validate(status)
    [replica] = status["workers"]
    quick, slow = replica["stages"]
    assert replica["holding"] == 1
    assert slow["computed_seconds"] > quick["computed_seconds"] > 0
    assert quick["waited_seconds"] > slow["waited_seconds"] > 0
    # The last stage alone knows it.
    assert replica["reported"].keys() == {"loss"}
    assert status["forming"] == [{"rank": "r1", "stages": 2, "missing": [0]}]


def test_the_stages_that_a_replica_lacks_are_shown(live):
    row = "#forming [data-rank=r1]"
    live.until_text(row, "r1 waits for stage 0")
    assert live.js(SEGMENTS, row) == [["missing", False, "0 is missing"], ["here", False, "1 is here"]]


def test_a_replica_that_has_lost_a_stage_is_no_lane_any_more(live, run):
    server, (first, _) = run
    try:
        first.kill()
        live.until_text("#forming [data-rank=r0]", "r0 waits for stage 0")
        live.until(lambda: live.lane("r0") is None, "the lane is gone")
        live.until_text("#detail", "it goes on when all are there. 1 other replica waits too.")
        assert server.status()["workers"] == []
    finally:
        assert live.complaints() == []
