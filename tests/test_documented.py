"""Whatever a user can set, run or watch has its place in `docs/`, and what is made from the code is fresh."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import click
import pytest

from leeway.ps.observability import catalogue as server_catalogue
from leeway.ps.options import GROUP_SETTINGS, SETTINGS
from leeway.worker import cli, launch
from leeway.worker.observability import catalogue as worker_catalogue
from leeway.worker.tasks.task import BUILT_IN

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
CONFIGURATION = (REFERENCE / "configuration.md").read_text(encoding="utf-8")
METRICS = (REFERENCE / "metrics.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def documented() -> dict:
    return runpy.run_path(str(Path(__file__).with_name("documented.py")))


def test_generated_parts_are_fresh(documented: dict) -> None:
    stale = [page.name for page in documented["stale_pages"]()]
    assert not stale, "run `python -m tests.documented --rewrite`"


def test_every_generated_part_stands_somewhere(documented: dict) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in documented["DOCS"].rglob("*.md"))
    assert set(re.findall(r"<!-- generated: ([a-z-]+) -->", pages)) == set(documented["parts"]())


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_a_setting_of_the_server_is_documented(setting) -> None:
    assert f"| `{setting.opts[0]}` | `{setting.envvar}` | `{setting.key}` |" in CONFIGURATION


OPTIONS = [option for options in cli.SECTIONS.values() for option in options]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_an_option_of_the_worker_is_documented(option) -> None:
    assert f"| `{option.opts[0]}` | `{option.envvar}` |" in CONFIGURATION


@pytest.mark.parametrize("word", ["`PS_CONFIG`", "`--for`", "`[group.NAME]`", "`keys`", *GROUP_SETTINGS, *BUILT_IN])
def test_what_no_table_of_flags_has_is_documented(word: str) -> None:
    assert word in CONFIGURATION


def test_every_option_of_ps_launch_is_in_its_help() -> None:
    shown = CONFIGURATION.partition("$ ps-launch --help")[2]
    options = [param.opts[0] for param in launch.command.params if isinstance(param, click.Option)]
    assert "--for" in options
    assert [option for option in options if f"  {option}" not in shown] == []


@pytest.mark.parametrize(
    "metric", [*server_catalogue.CATALOGUE, *worker_catalogue.CATALOGUE], ids=lambda metric: metric.name
)
def test_a_metric_is_documented(metric) -> None:
    assert f"| `{metric.name}` | {metric.type} |" in METRICS


# The contract.

CONTRACT = (REFERENCE / "contract.md").read_text(encoding="utf-8")
PROMISES = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in CONTRACT.splitlines()
    if line.startswith("| ") and "`tests/" in line
]


def test_the_contract_numbers_its_guarantees() -> None:
    assert [row[0] for row in PROMISES if row[0].isdigit()] == [str(number) for number in range(1, 14)]
    assert len(PROMISES) > 15


@pytest.mark.parametrize("promise", PROMISES, ids=lambda row: row[-2][:60])
def test_what_the_contract_promises_is_tested(promise: list[str]) -> None:
    """Each row names its tests: a scenario, a test file, or one test in it."""
    named = re.findall(r"`(tests/[\w/]+\.(?:py|txt))(?:::(\w+))?`", promise[-1])
    assert named
    for file, test in named:
        text = (REFERENCE.parents[1] / file).read_text(encoding="utf-8")
        if file.endswith(".py"):
            assert f"def {test}(" in text if test else "def test_" in text, f"{file}::{test}"
        else:
            assert "\n----\n" in text, file


def test_every_row_below_a_column_of_tests_names_some() -> None:
    tables = re.findall(r"^\|.*\| tests \|\n\|[-| ]+\|\n((?:\|.*\n)+)", CONTRACT, re.MULTILINE)
    assert len(tables) == CONTRACT.count(" tests |\n") >= 3
    assert [row for table in tables for row in table.splitlines() if "`tests/" not in row] == []
