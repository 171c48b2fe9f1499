"""What holds of all dashboards, seen in the JSON that Grafana gets."""

import itertools
import re

import pytest

from dashboards import __main__ as program
from dashboards import server, staleness, training
from dashboards.queries import TARGET
from tests.dashboards.boards import BOARDS, BUILT, OURS, names_in, panels, questions, series_names

SOURCE = {"type": "prometheus", "uid": "${datasource}"}

every_board = pytest.mark.parametrize("name", BOARDS)


def test_what_is_committed_is_what_is_built(tmp_path, capsys):
    program.write(tmp_path)
    written = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(written) == set(BUILT)
    stale = [name for name, text in written.items() if (program.HERE / name).read_bytes() != text]
    assert stale == [], "run `make dashboards`"
    others = {path.name for folder in ("grafana", "prometheus") for path in (program.HERE / folder).iterdir()}
    assert others == {name.partition("/")[2] for name in BUILT}, "nothing builds this any more"
    assert len(capsys.readouterr().out.splitlines()) == len(BUILT)


def test_the_build_is_the_same_every_time():
    assert program.built() == BUILT


def test_names_and_addresses_stay():
    assert {name: board["uid"] for name, board in BOARDS.items()} == {
        "grafana/training.json": training.UID,
        "grafana/staleness.json": staleness.UID,
        "grafana/server.json": server.UID,
    }
    assert {training.UID, staleness.UID, server.UID} == {"leeway-training", "leeway-staleness", "leeway-server"}


@every_board
def test_what_all_share(name):
    board = BOARDS[name]
    assert board["time"] == {"from": "now-30m", "to": "now"}
    assert (board["refresh"], board["tags"], board["editable"]) == ("5s", ["leeway"], True)
    assert "id" not in board, "Grafana gives it"
    assert board["title"].startswith("Leeway / ")
    assert board["description"]
    [link] = board["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["leeway"])
    assert link["includeVars"]
    assert link["keepTime"]


@every_board
def test_every_panel_says_what_it_shows(name):
    for panel in panels(BOARDS[name]):
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"] == SOURCE


@every_board
def test_panels_of_one_section_have_different_names(name):
    title, seen = "", set()
    for panel in BOARDS[name]["panels"]:
        if panel["type"] == "row":
            title, seen = panel["title"], set()
        assert (panel["type"], panel["title"]) not in seen, title
        seen.add((panel["type"], panel["title"]))


@every_board
def test_panels_stand_beside_each_other(name):
    everything = BOARDS[name]["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = []
    for panel in everything:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        places.append({(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in _rows(place)})
    for one, other in itertools.combinations(places, 2):
        assert not one & other
    below = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in everything)
    assert len(set().union(*places)) == 24 * below, "there is a hole"


def _rows(place):
    return range(place["y"], place["y"] + place["h"])


@every_board
def test_every_query_reads_what_is_chosen(name):
    for panel in panels(BOARDS[name]):
        for target in panel["targets"]:
            assert target["datasource"] == SOURCE
            expression = target["expr"]
            for metric in names_in(expression):
                followed = re.findall(rf"\b{metric}(.)", expression)
                assert set(followed) == {"{"}, f"{metric} is not limited to what is chosen: {expression}"
            assert expression.count('job=~"$job"') == expression.count("{")


@every_board
def test_every_rate_is_over_grafana_s_interval(name):
    for question in questions(name):
        windows = re.findall(r"\[([^\]]*)\]", question.expression) + re.findall(
            r"offset (\S+?)\)*(?: |$)", question.expression
        )
        assert set(windows) <= {"$__rate_interval"}, question


@every_board
def test_every_series_has_a_name(name):
    for panel in panels(BOARDS[name]):
        if panel["type"] != "table":
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)


@every_board
def test_legends_name_labels_that_the_answer_has(name):
    known = {label for metric in OURS for label in metric.labels} | {*TARGET, "le"}
    for panel in panels(BOARDS[name]):
        for target in panel["targets"]:
            labels = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            assert labels <= known


@every_board
def test_the_variables_are_those_that_are_used(name):
    board = BOARDS[name]
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    asked = " ".join(question.expression for question in questions(name)) + f" {SOURCE}"
    used = set(re.findall(r"\$\{?(\w+)", asked)) - {"__rate_interval"}
    assert used == set(variables)
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for variable in ("job", "instance", "rank"):
        if variable in variables:
            assert variables[variable]["multi"]
            assert variables[variable]["includeAll"]
            assert variables[variable]["current"]["value"] == ["$__all"]
    assert all(variable["label"] and variable["description"] for variable in variables.values())
    assert all(variable["refresh"] == 2 for variable in variables.values() if variable["type"] == "query")


@every_board
def test_every_name_is_known(name):
    for question in questions(name):
        assert names_in(question.expression) <= series_names(), question


def test_every_metric_of_ours_is_shown_somewhere():
    asked = {name for board in BOARDS for question in questions(board) for name in names_in(question.expression)}
    asked |= {"leeway_server_info", "leeway_worker_info"}  # by the variable "job", as text
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    assert [metric.name for metric in OURS if metric.name not in shown] == []


def test_names_are_found_in_queries():
    expression = (
        'sum by (le) (rate(a_bucket{x="b c"}[5m])) / on (job) group_left (rank) c:d:e1m unless f offset 5m > 1e-9'
    )
    assert names_in(expression) == {"a_bucket", "c:d:e1m", "f"}
