"""What a benchmark found, and how it is written down: one dated Markdown page for people, one JSON file beside it.

The one rule: a page can be read without the program. Every figure stands with its unit, its spread and what it is
compared with; what was not measured is named with the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.bench.contest import Comparison, Samples


@dataclass(frozen=True, slots=True)
class Table:
    """Figures that are no comparison, for example where time goes. A row is a name and one cell a column."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float | str | None]]


@dataclass(slots=True)
class Section:
    """One part of the benchmark: what was done, in words, and what came out."""

    title: str
    text: str
    comparisons: list[Comparison] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    skipped: str | None = None


def write(folder: Path, name: str, machine: Mapping[str, Any], sections: Sequence[Section]) -> tuple[Path, Path]:
    """Write `NAME.md` and `NAME.json`; `name` is the date and time. Returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / f"{name}.md", folder / f"{name}.json"
    page.write_text(markdown(name, machine, sections))
    document = {"date": name, "machine": dict(machine), "sections": [_fields(section) for section in sections]}
    data.write_text(json.dumps(document, indent=1) + "\n")
    return page, data


def markdown(name: str, machine: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The whole page."""
    others = machine["others_share"]
    busy = "" if others is None else f" While it ran, other processes used {others:.0%} of the cores."
    packages = ", ".join(f"{package} {version}" for package, version in machine["packages"].items())
    lines = [
        f"# Benchmark of {name}",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, load"
        f" {machine['load']} before; Python {machine['python']}, {packages}.",
        "",
        "All sides of a comparison were measured in this run, in turns. A figure is the median of the rounds, with the"
        " quartiles (of fewer than four rounds, the extremes) behind it; a ratio is the median of the rounds' ratios."
        f" Absolute figures are this machine's under whatever else it did.{busy}",
    ]
    for section in sections:
        lines += ["", *section_lines(section)]
    return "\n".join(lines) + "\n"


def section_lines(section: Section) -> list[str]:
    """One part of the page."""
    lines = [f"## {section.title}"]
    if section.text:
        lines += ["", section.text]
    if section.skipped:
        lines += ["", f"**Skipped:** {section.skipped}"]
    if section.comparisons:
        lines += ["", *_comparisons(section.comparisons)]
    for table in section.tables:
        lines += ["", f"**{table.title}**", "", *_table(table)]
    return lines


def _comparisons(comparisons: Sequence[Comparison]) -> list[str]:
    rows = ["| what | unit | | ours | | baseline | ratio | goal | |", "|---|---|---|---|---|---|---|---|---|"]
    for one in comparisons:
        bound = "" if one.goal is None else f"{'<=' if one.fewer else '>='} {one.goal:g}"
        verdict = {None: "", True: "met", False: "**short**"}[one.met]
        rows.append(
            f"| {one.what} | {one.unit} | {one.our_name} | {_spread(one.ours)} | {one.baseline_name} |"
            f" {_spread(one.baseline)} | {_spread(one.ratios)} | {bound} | {verdict} |"
        )
    return rows


def _table(table: Table) -> list[str]:
    head = ["", *table.columns]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, cells in table.rows.items():
        lines.append(f"| {name} | {' | '.join(_cell(cell) for cell in cells)} |")
    return lines


def _cell(cell: float | str | None) -> str:
    if cell is None:
        return ""
    return cell if isinstance(cell, str) else number(cell)


def _spread(samples: Samples) -> str:
    low, high = samples.spread
    return f"{number(samples.median)} ({number(low)} to {number(high)})"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.5f}"


def _fields(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "text": section.text,
        "skipped": section.skipped,
        "comparisons": [one.to_fields() for one in section.comparisons],
        "tables": [
            {
                "title": table.title,
                "columns": list(table.columns),
                "rows": {name: list(cells) for name, cells in table.rows.items()},
            }
            for table in section.tables
        ],
    }
