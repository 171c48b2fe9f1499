"""The dashboards as a Grafana reads them: the JSON, its panels, and everything in it that is asked of Prometheus."""

import json
import re
from typing import NamedTuple

from dashboards import __main__ as program
from dashboards.queries import FOREIGN
from leeway.protocol.metrics import MetricType
from leeway.ps.watching import catalogue as server
from leeway.worker.watching import catalogue as worker

BUILT = program.built()
BOARDS = {name: json.loads(text) for name, text in BUILT.items() if name.endswith(".json")}

OURS = (*server.CATALOGUE, *worker.CATALOGUE)


class Question(NamedTuple):
    """One query: where it stands, its PromQL or, of a variable, the selector and the label."""

    where: str
    expression: str
    label: str | None = None
    instant: bool = False

    def __str__(self):
        return self.where


def panels(board):
    """Every panel that shows something: rows are only headings."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def questions(name):
    """Everything that a dashboard asks: for its panels, its variables, its annotations."""
    board = BOARDS[name]
    short = name.removeprefix("grafana/").removesuffix(".json")
    found = [
        Question(f"{short}: {panel['title']} ({target['refId']})", target["expr"], instant=target.get("instant", False))
        for panel in panels(board)
        for target in panel["targets"]
    ]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            found.append(Question(f"{short}: ${variable['name']}", asked[1], asked[2]))
    marks = board["annotations"].get("list", [])
    return found + [Question(f"{short}: marks of {one['name']}", one["target"]["expr"]) for one in marks]


def series_names():
    """Every name under which a known metric has series."""
    names = set()
    for metric in (*OURS, *FOREIGN):
        parts = ("_bucket", "_count", "_sum") if metric.type is MetricType.HISTOGRAM else ("",)
        names |= {metric.name + part for part in parts}
    return names


_KEYWORDS = {"and", "or", "unless", "by", "on", "ignoring", "group_left", "group_right", "without", "offset", "bool"}


def names_in(expression):
    """The names of series in a query: what is left of its words without functions, labels, windows and text."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\b(?:by|on|group_left|without|ignoring)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\boffset \S+", "", bare)
    words = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\w)(?!\s*\()", bare)
    return {word for word in words if word not in _KEYWORDS and not re.fullmatch(r"e|inf|nan", word)}
