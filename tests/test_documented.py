"""Whatever a user can set, run or watch has its place in `docs/`, and what is made from the code is fresh."""

from __future__ import annotations

import dataclasses
import inspect
import re
import runpy
from pathlib import Path

import click
import pytest

import leeway
from leeway.protocol.times import StepTimes
from leeway.ps.settings.options import GROUP_SETTINGS, SETTINGS
from leeway.ps.watching import catalogue as server_catalogue
from leeway.worker.group_client import GroupClient
from leeway.worker.launch import cli as launch
from leeway.worker.train import cli
from leeway.worker.train.tasks.task import BUILT_IN
from leeway.worker.watching import catalogue as worker_catalogue

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


# The Python interface.

PYTHON = (REFERENCE / "python.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    _, found, rest = PYTHON.partition(f"\n## {heading}\n")
    assert found
    return rest.partition("\n## ")[0]


def public_attributes(of: type) -> list[str]:
    """Methods, properties and what the class says of its instances: their names without an underscore."""
    assigned = re.findall(r"^ +self\.([a-z]\w*)(?:: .*)? = ", inspect.getsource(of), re.MULTILINE)
    return sorted({name for name in [*vars(of), *assigned] if not name.startswith("_")})


@pytest.mark.parametrize("name", leeway.__all__)
def test_a_name_to_import_is_documented(name: str) -> None:
    assert f"`leeway.{name}`" in PYTHON.partition("\n## ")[0]


@pytest.mark.parametrize("argument", inspect.signature(leeway.connect).parameters)
def test_an_argument_of_connect_is_documented(argument: str) -> None:
    assert f"| `{argument}` |" in section("connect")


@pytest.mark.parametrize("name", public_attributes(leeway.TrainingSession))
def test_an_attribute_of_a_session_is_documented(name: str) -> None:
    cells = " ".join(line.split(" | ")[0] for line in section("TrainingSession").splitlines() if line.startswith("| "))
    assert re.search(rf"`{name}[`(]", cells)


@pytest.mark.parametrize("name", public_attributes(leeway.Client))
def test_an_attribute_of_a_client_is_documented(name: str) -> None:
    cells = " ".join(line.split(" | ")[0] for line in section("Client").splitlines() if line.startswith("| "))
    assert re.search(rf"`{name}[`(]", cells)


@pytest.mark.parametrize("method", ["offer", "withdraw", "pull", "push", "pushpull", "skip", "settle", "receive_into"])
def test_the_arguments_of_a_call_of_a_group_are_those_it_has(method: str) -> None:
    """A client that has one group says the same of itself."""
    signature = inspect.signature(getattr(GroupClient, method))
    assert inspect.signature(getattr(leeway.Client, method)) == signature
    (shown,) = re.findall(rf"^\| `{method}\((.*?)\)` \|", section("Client"), re.MULTILINE)
    assert [word.partition("=")[0] for word in shown.split(", ") if word] == list(signature.parameters)[1:]


@pytest.mark.parametrize("argument", inspect.signature(leeway.wrap).parameters)
def test_an_argument_of_wrap_is_documented(argument: str) -> None:
    call = section("wrap").partition("```python")[2].partition("```")[0]
    assert re.search(rf"\b{argument}\b", call)


@pytest.mark.parametrize(
    "method", ["join", "attach", "step", "wrap", "epochs", "report", "skip", "pull", "barrier", "close"]
)
def test_the_arguments_of_a_method_are_those_it_has(method: str) -> None:
    parameters = list(inspect.signature(getattr(leeway.TrainingSession, method)).parameters.values())[1:]
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    shown = str(inspect.Signature(plain)).replace("'", '"')
    assert f"| `{method}{shown}` |" in section("TrainingSession")


@pytest.mark.parametrize(
    ("heading", "of"), [("Outcome", leeway.Outcome), ("Times", StepTimes)], ids=["Outcome", "StepTimes"]
)
def test_a_field_of_what_a_step_leaves_is_documented(heading: str, of: type) -> None:
    names = [field.name for field in dataclasses.fields(of)]
    names += [name for name, value in vars(of).items() if isinstance(value, property)]
    assert [name for name in names if f"| `{name}` |" not in section(heading)] == []


def test_an_error_is_documented() -> None:
    values = {name: getattr(leeway, name) for name in leeway.__all__}
    errors = [name for name, value in values.items() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(errors) > 5
    assert [name for name in errors if f"| `{name}` |" not in section("Errors")] == []
