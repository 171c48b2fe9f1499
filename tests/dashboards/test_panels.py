import pytest

from dashboards.board import Shelf
from dashboards.panels import NUMBER, Column, Query, figure, graph, heat, rows_of


@pytest.mark.parametrize(("title", "description"), [("", "How to read it."), ("Title", "")])
@pytest.mark.parametrize(
    "make",
    [
        lambda title, description: graph(title, description, NUMBER, Query("up", "up")),
        lambda title, description: figure(title, description, NUMBER, Query("up", "up")),
        lambda title, description: heat(title, description, NUMBER, "up", axis="up"),
        lambda title, description: rows_of(title, description, "job", "Job", Column("Up", "up", NUMBER)),
    ],
)
def test_a_panel_has_a_title_and_a_description(make, title, description):
    with pytest.raises(ValueError, match="title and description"):
        make(title, description)


def test_a_table_names_its_columns_and_gives_each_its_unit():
    made = rows_of("T", "D", "rank", "Rank", Column("Clock", "a", NUMBER, 0), Column("Wait", "b", "s")).build()
    assert [target.expr for target in made.targets] == ["a", "b"]
    assert all(target.instant for target in made.targets)
    merge, organize = made.transformations
    assert merge.id_val == "merge"
    assert organize.options["renameByName"] == {"rank": "Rank", "Value #A": "Clock", "Value #B": "Wait"}
    units = {
        one.matcher.options: {prop.id_val: prop.value for prop in one.properties} for one in made.field_config.overrides
    }
    assert units == {"Clock": {"unit": NUMBER, "decimals": 0}, "Wait": {"unit": "s"}}


def test_thresholds_begin_with_the_base_and_are_in_order():
    made = figure("T", "D", NUMBER, Query("a", "a"), base="blue", limits=((1, "yellow"), (2, "red"))).build()
    steps = made.field_config.defaults.thresholds.steps
    assert [(step.value, step.color) for step in steps] == [(None, "blue"), (1, "yellow"), (2, "red")]


@pytest.mark.parametrize("count", [0, 5, 25])
def test_a_shelf_is_shared_evenly(count):
    with pytest.raises(ValueError, match="evenly"):
        Shelf(4, [graph("T", "D", NUMBER, Query("a", "a"))] * count)
