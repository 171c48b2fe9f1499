from __future__ import annotations

import json

import pytest
from rich.console import Console

from tests.demo import timeline
from tests.demo.evaluation import Point
from tests.demo.plan import MODES, Plan
from tests.demo.report import DEFINITIONS, Result, meanings, table, write_json


@pytest.fixture
def result(ssp_rows):
    points = [Point(1, 0.0, 0, 0.1), Point(4, 5.0, 3, 0.96), Point(6, 10.0, 5, 0.94)]
    return Result(MODES[1], timeline.follow(ssp_rows), points)


@pytest.fixture
def short_of_the_target(sync_rows):
    points = [Point(1, 0.0, 0, 0.1), Point(2, 4.0, 2, 0.93), Point(3, 8.0, 4, 0.92)]
    return Result(MODES[0], timeline.follow(sync_rows), points)


def printed(shown: object) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


def test_figures_are_counted_over_the_timed_part(result, short_of_the_target):
    ssp, sync = result.figures, short_of_the_target.figures
    assert (ssp.seconds, ssp.steps_per_second, ssp.worker_steps_per_second) == (10.0, 0.5, 0.5)
    assert (sync.seconds, sync.steps_per_second, sync.worker_steps_per_second) == (8.0, 0.25, 0.5)
    assert (ssp.seconds_to_target, ssp.final_accuracy, ssp.best_accuracy) == (5.0, 0.94, 0.96)


def test_the_table_fits_a_terminal_of_80_columns(result):
    lines = printed(table([result])).splitlines()
    assert lines[-1].split() == ["ssp", "(bound", "3)", "0.5", "0.5", "5.0", "s", "19%", "1", "0.6", "94.0%"]
    assert "…" not in "".join(lines)


def test_every_column_is_explained():
    shown = printed(meanings())
    assert [line.split("  ")[0] for line in shown.splitlines() if not line.startswith(" ")] == list(DEFINITIONS)


def test_a_mode_that_never_got_there_is_reported_with_its_best(short_of_the_target):
    shown = " ".join(printed(table([short_of_the_target])).split())
    assert "never" in shown
    assert "93.0%" in shown


def test_the_json_holds_every_figure_its_meaning_and_the_curve(tmp_path, result, short_of_the_target):
    path = tmp_path / "figures.json"
    write_json(path, Plan(), [short_of_the_target, result])
    document = json.loads(path.read_text())
    assert list(document["modes"]) == ["sync", "ssp"]
    assert document["modes"]["sync"]["seconds_to_target"] is None
    assert document["modes"]["ssp"]["largest_lag"] == 1
    assert document["modes"]["ssp"]["accuracy"][1] == {"version": 4, "seconds": 5.0, "updates": 3, "accuracy": 0.96}
    assert document["definitions"] == DEFINITIONS
    assert document["plan"]["nap_seconds"] == 0.1
    assert document["machine"]["cores"] >= 1
