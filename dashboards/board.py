"""A whole dashboard: what stands where, and what all of them share.

The one rule: the layout follows from the order. A shelf is as wide as the screen and its panels share it evenly, so
nothing overlaps and no place is typed; on a narrow screen Grafana puts them below each other by itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders.dashboard import AnnotationQuery, Dashboard, DashboardLink, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DashboardLinkType, GridPos

from dashboards.panels import PLAIN, Query, figure
from dashboards.variables import GROUP, SOURCE
from leeway.ps.watching import catalogue as server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grafana_foundation_sdk.builders.dashboard import DatasourceVariable, QueryVariable

    from dashboards.panels import Panel

TAG: Final = "leeway"
"""By it the dashboards find each other."""

COLUMNS: Final = 24
"""Of Grafana's grid."""

LOW, MIDDLE, HIGH = 4, 8, 10
"""Heights in units of Grafana's grid, of about 38 pixels: figures, graphs, graphs and tables of many lines."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Panels beside each other, all equally wide. Their number divides 24."""

    height: int
    panels: Sequence[Panel]

    def __post_init__(self) -> None:
        if not self.panels or COLUMNS % len(self.panels):
            raise ValueError(f"{len(self.panels)} panels cannot share {COLUMNS} columns evenly")


@dataclass(frozen=True, slots=True)
class Section:
    """A row of Grafana's, with its title, and the shelves below it."""

    title: str
    shelves: Sequence[Shelf]


def dashboard(
    uid: str,
    title: str,
    description: str,
    variables: Sequence[DatasourceVariable | QueryVariable],
    sections: Sequence[Section],
    annotations: Sequence[AnnotationQuery] = (),
) -> Dashboard:
    """A dashboard of these sections, linked with all others of ours."""
    board = (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .editable()
        .time("now-30m", "now")
        .refresh("5s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .variables([*variables])
        .annotations([*annotations])
        .link(
            DashboardLink("Leeway")
            .type(DashboardLinkType.DASHBOARDS)
            .tooltip("The other dashboards of the run, at the same time and for the same choice")
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
    )
    number, y = 0, 0
    for section in sections:
        number += 1
        board.with_row(Row(section.title).id(number).grid_pos(GridPos(h=1, w=COLUMNS, x=0, y=y)))
        y += 1
        for shelf in section.shelves:
            width = COLUMNS // len(shelf.panels)
            for place, panel in enumerate(shelf.panels):
                number += 1
                board.with_panel(panel.id(number).grid_pos(GridPos(h=shelf.height, w=width, x=place * width, y=y)))
            y += shelf.height
    return board


def policy_in_force() -> Panel:
    """The figure that the marks of `policy_changes` are the history of."""
    return figure(
        "Policy",
        "The mode that is in force. Marks in the graphs show where it was changed.",
        PLAIN,
        Query(GROUP.series(server.POLICY), "{{mode}}"),
        names=True,
    )


def policy_changes() -> list[AnnotationQuery]:
    """Marks where a mode came into force, at the start of the run too, and where mode or bound were changed."""
    policy = GROUP.series(server.POLICY)
    return [
        _annotation("Policy", f"{policy} unless {policy} offset $__rate_interval", "{{mode}} is in force", "purple"),
        _annotation("Switch", GROUP.happened(server.SWITCHES), "mode or bound of {{group}} were changed", "orange"),
    ]


def _annotation(name: str, expression: str, text: str, color: str) -> AnnotationQuery:
    query = Dataquery().ref_id("A").expr(expression).datasource(SOURCE).range()
    return (
        AnnotationQuery()
        .name(name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(color)
        .target(query)
        .expr(expression)
        .title_format(name)
        .text_format(text)
        .tag_keys("group,mode")
    )


def encoded(board: Dashboard) -> str:
    """The dashboard as the JSON that Grafana imports, the same at every build."""
    document = json.loads(json.dumps(board.build(), cls=JSONEncoder))
    # The SDK would have links and marks in a menu that only the newest Grafanas have. They are to be seen.
    for shown in (*document["links"], *document["annotations"].get("list", ())):
        del shown["placement"]
    return json.dumps(document, indent=2, sort_keys=True) + "\n"
