"""Scenario files: what they may say, and the one line that refuses what makes no sense."""

import re
from pathlib import Path

import pytest

from leeway.worker.train.config import WorkerConfig
from tests.load import scenario
from tests.load.scenario import Network, ScenarioError
from tests.load.stragglers import Constant, Moving, Nobody, Stopping, Tail
from tests.load.systems import ASYNC, DDP, SYNC, System

SCENARIOS = sorted(Path(scenario.__file__).with_name("scenarios").glob("*.toml"))

GOOD = """
title = "Mine"
task = "digits"
batch_size = 32
target_accuracy = 0.9
run_seconds = 2
search_seconds = 1.0
seeds = [0, 1]
learning_rates = [0.1, 0.2]
systems = ["sync", "async", "ssp(3)", "ddp"]
[[stragglers]]
kind = "none"
[[stragglers]]
kind = "moving"
seconds = 0.02
iterations = 4
"""


@pytest.fixture
def read(tmp_path):
    """Read a scenario from this text, its file being mine.toml."""

    def written(text):
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return scenario.read(path)

    return written


@pytest.fixture
def refusal(read, tmp_path):
    """Why a text is refused, without the file's name."""

    def of(text):
        with pytest.raises(ScenarioError) as refused:
            read(text)
        said = str(refused.value)
        assert "\n" not in said
        assert said.startswith(f"{tmp_path / 'mine.toml'}: ")
        return said.partition("mine.toml: ")[2]

    return of


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_those_that_come_along_make_sense(path):
    made = scenario.read(path)
    assert made.name == path.stem
    assert made.title not in [scenario.read(other).title for other in SCENARIOS if other != path]


def test_a_scenario_is_what_its_file_says(read):
    made = read(GOOD)
    assert made.name == "mine"
    assert made.run_seconds == 2.0
    assert made.workers == 4
    assert made.systems == (SYNC, ASYNC, System("ssp", 3), DDP)
    assert made.stragglers == (Nobody(), Moving(0.02, 4))
    assert made.network is None


def test_all_that_it_may_say(read):
    made = read(
        GOOD.replace("batch_size", 'model = "mlp"\ntest_samples = 100\npace_seconds = 0.01\nworkers = 2\nbatch_size')
        + '[[stragglers]]\nkind = "constant"\nseconds = 1\n'
        + '[[stragglers]]\nkind = "tail"\nseconds = 0.01\nalpha = 1.5\n'
        + '[[stragglers]]\nkind = "stop"\nat_seconds = 0.5\nfor_seconds = 1.0\nlease_seconds = 0.5\n'
        + "[network]\ndelay_seconds = 0.05\nup_bytes_per_second = 1e6\ndown_bytes_per_second = 2e6\n"
    )
    assert made.stragglers[2:] == (Constant(1.0), Tail(0.01, 1.5), Stopping(0.5, 1.0, 0.5))
    assert made.network == Network(0.05, 1e6, 2e6)
    assert made.test_samples == 100


@pytest.mark.parametrize(
    ("changed", "to", "said"),
    [
        ("batch_size", "batch", "there is no key batch; known are title, task, model, workers, batch_size, "),
        ("batch_size = 32", "", "batch_size is missing"),
        ("batch_size = 32", "batch_size = 0", "batch_size is 0; it must be 1 or more"),
        ("batch_size = 32", 'batch_size = "32"', "batch_size is '32'; it must be a whole number"),
        ("batch_size = 32", "batch_size = true", "batch_size is True; it must be a whole number"),
        ("run_seconds = 2", "run_seconds = nan", "run_seconds is nan; it must be a number"),
        ("run_seconds = 2", "run_seconds = 0", "run_seconds is 0.0; it must be 0.05 to 3600"),
        ("= 0.9", "= 95", "target_accuracy is 95.0; it must be above 0, at most 1"),
        ('"digits"', '"digit"', "task is 'digit'; it must be one of linreg, digits, heights, mnist, "),
        ("[0, 1]", "[]", "seeds is []; it must be a list of at least one"),
        ("[0, 1]", "0", "seeds is 0; it must be a list"),
        ("[0, 1]", "[1, 1]", "seeds names something twice"),
        ("[0.1, 0.2]", "[0.1, -1.0]", "learning_rates is [0.1, -1.0]; it must be above 0"),
        ('"ddp"', '"bsp"', "there is no system 'bsp'; known are sync, async, ddp and ssp(N) with a bound such as 3"),
        ('"ssp(3)"', '"ssp"', "there is no system 'ssp'"),
        ('"none"', '"nobody"', "stragglers[1].kind is 'nobody'; known are none, constant, moving, tail, stop"),
        ("iterations", "turns", "there is no key stragglers[2].turns; known are seconds, iterations"),
        ("iterations = 4", "", "stragglers[2].iterations is missing"),
        ("seconds = 0.02", "seconds = -1", "stragglers[2].seconds is -1.0; it must be above 0"),
        ('kind = "none"', 'kind = "none"\nseconds = 1', "there is no key stragglers[1].seconds; known are none"),
        ("title", 'name = "x"\ntitle', "name is the file's own, it is no key"),
        ("title =", "title", "is no TOML: "),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(refusal, changed, to, said):
    assert changed in GOOD
    assert refusal(GOOD.replace(changed, to, 1)).startswith(said)


def test_a_mistake_in_the_network(refusal):
    network = "[network]\ndelay_seconds = 0.05\nup_bytes_per_second = 1\ndown_bytes_per_second = 1e6\n"
    assert refusal(GOOD + network) == "network.up_bytes_per_second is 1.0; it must be 1e3 to 1e10"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ScenarioError, match=r"none\.toml: cannot be read: No such file"):
        scenario.read(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["sync", "async", "ddp", "ssp(0)", "ssp(10)"])
def test_systems_are_named_as_they_are_read(text):
    assert str(System.read(text)).lower() == text


@pytest.mark.parametrize(
    "straggler", [Nobody(), Constant(0.1), Moving(0.1, 3), Tail(0.1, 1.5), Stopping(1.0, 2.0, 0.5)]
)
def test_stragglers_are_settings_that_workers_know(straggler):
    """Each flag is one of `ps-worker`, and only the rank that is slow sleeps."""
    fields = {"--slow": "slow_seconds", "--slow-turns": "slow_turns", "--slow-tail": "slow_tail"}
    sleeps = []
    for rank in range(3):
        flags = straggler.flags(rank, 3)
        settings = {
            fields[flag]: int(value) if flag == "--slow-turns" else float(value)
            for flag, value in zip(flags[::2], flags[1::2], strict=True)
        }
        config = WorkerConfig(task="digits", server="http://127.0.0.1", rank=f"w{rank}", **settings)
        sleeps.append([config.sleep_seconds(clock, rank, 3) for clock in range(12)])
    slow = [sum(own) > 0 for own in sleeps]
    expected = {"none": [False] * 3, "stop": [False] * 3, "constant": [False, False, True]}
    assert slow == expected.get(straggler.kind, [True] * 3)
    assert re.search(r"\.$", straggler.words)
