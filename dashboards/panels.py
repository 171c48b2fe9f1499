"""How a panel is made: one function for each kind.

The one rule: no panel without a title, a description that says how to read it, and a unit; all three are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import common as build
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.dashboard import DataTransformerConfig, DynamicConfigValue
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

from dashboards.variables import SOURCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Panel = timeseries.Panel | stat.Panel | heatmap.Panel | table.Panel

SECONDS: Final = "s"
BYTES: Final = "bytes"
BYTES_PER_SECOND: Final = "binBps"
SHARE: Final = "percentunit"
PER_SECOND: Final = "cps"
NUMBER: Final = "short"  # 12345 is shown as 12.3 K
COUNT: Final = "locale"  # and here as 12,345
PLAIN: Final = "none"

GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE = "green", "yellow", "orange", "red", "blue", "purple"

Steps = tuple[tuple[float, str], ...]
"""Thresholds: from this value on, this colour."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question to Prometheus, and how the series of its answer are named: `{{label}}` is a label's value."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: one value for each row."""

    name: str
    expression: str
    unit: str
    decimals: int | None = None


def graph(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    stacked: bool = False,
    bars: bool = False,
    minimum: float | None = 0.0,
    maximum: float | None = None,
    logarithmic: bool = False,
    colors: Mapping[str, str] | None = None,
    dashed: Sequence[str] = (),
    limits: Steps = (),
) -> timeseries.Panel:
    """Series over time. `colors` of series by name, which else have one of their own by name, the same in every panel.

    `dashed` are the names of series drawn as limits; `limits` are fixed ones, drawn as lines.
    """
    panel = (
        timeseries.Panel()
        .color_scheme(FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(
            build.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["lastNotNull"])
        )
        .tooltip(build.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
        .draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(60 if bars else 25 if stacked else 5)
        .show_points(common.VisibilityMode.NEVER)
        .stacking(
            build.StackingConfig().mode(common.StackingMode.NORMAL if stacked else common.StackingMode.NONE).group("A")
        )
    )
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    if logarithmic:
        panel.scale_distribution(build.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10))
    if limits:
        panel.thresholds_style(build.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})])
    for name in dashed:
        panel.override_by_name(
            name,
            [
                DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
                DynamicConfigValue("custom.lineWidth", 2),
                DynamicConfigValue("custom.fillOpacity", 0),
            ],
        )
    _describe(panel.unit(unit).thresholds(_thresholds(limits)), title, description)
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(_query(letter, query.expression).range().legend_format(query.legend))
    return panel


def figure(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    limits: Steps = (),
    base: str = GREEN,
    decimals: int | None = None,
    names: bool = False,
) -> stat.Panel:
    """The newest value, large, with its course behind it. With `names` the series' name stands in its place."""
    panel = (
        stat.Panel()
        .reduce_options(build.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE if names else common.BigValueGraphMode.AREA)
        .text_mode(common.BigValueTextMode.NAME if names else common.BigValueTextMode.AUTO)
        .justify_mode(common.BigValueJustifyMode.AUTO)
        .color_scheme(FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    )
    if decimals is not None:
        panel.decimals(decimals)
    _describe(panel.unit(unit).thresholds(_thresholds(limits, base)), title, description)
    # Alone, what was is not what is: the name of a policy that has ended would stay.
    target = _query("A", query.expression).legend_format(query.legend)
    return panel.with_target(target.instant() if names else target.range())


def heat(title: str, description: str, unit: str, expression: str, *, axis: str) -> heatmap.Panel:
    """A histogram over time: the darker, the more observations. `unit` and `axis` are those of what was observed."""
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .cell_gap(1)
        .cell_values(heatmap.CellValues().unit(NUMBER).decimals(0))
        .y_axis(
            heatmap.YAxisConfig().unit(unit).axis_label(axis).axis_placement(common.AxisPlacement.LEFT).reverse(False)
        )
        .tooltip(heatmap.HeatmapTooltip().mode(common.TooltipDisplayMode.SINGLE).y_histogram(True))
        .show_legend()
    )
    _describe(panel.unit(unit), title, description)
    target = _query("A", expression).format(PromQueryFormat.HEATMAP).range().legend_format("{{le}}")
    return panel.with_target(target)


def rows_of(title: str, description: str, label: str, name: str, *columns: Column) -> table.Panel:
    """A table with one row for each value of `label`, under `name`, and a column for each query, as it is now."""
    panel = (
        table.Panel()
        .show_header(True)
        .cell_height(common.TableCellHeight.SM)
        .sort_by([build.TableSortByFieldState().display_name(name).desc(False)])
    )
    _describe(panel.unit(PLAIN), title, description)
    letters = ascii_uppercase[: len(columns)]
    for letter, column in zip(letters, columns, strict=True):
        panel.with_target(_query(letter, column.expression).format(PromQueryFormat.TABLE).instant())
        properties = [DynamicConfigValue("unit", column.unit)]
        if column.decimals is not None:
            properties.append(DynamicConfigValue("decimals", column.decimals))
        panel.override_by_name(column.name, properties)
    names = {f"Value #{letter}": column.name for letter, column in zip(letters, columns, strict=True)}
    order = {label: 0} | {value: place for place, value in enumerate(names, 1)}
    organized = {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": {label: name} | names}
    panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    return panel.with_transformation(DataTransformerConfig(id_val="organize", options=organized))


def _describe(panel: Panel, title: str, description: str) -> None:
    if not (title and description):
        raise ValueError("a panel without title and description cannot be read")
    panel.title(title).description(description).datasource(SOURCE)


def _query(letter: str, expression: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(letter).expr(expression).datasource(SOURCE).editor_mode(QueryEditorMode.CODE)


def _thresholds(limits: Steps, base: str = GREEN) -> ThresholdsConfig:
    steps = [dashboard.Threshold(value=None, color=base)]
    steps += [dashboard.Threshold(value=value, color=color) for value, color in limits]
    return ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)
