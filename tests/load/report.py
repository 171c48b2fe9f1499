"""The report: one HTML file for people, one JSON file with every figure beside it.

The one rule: the page needs nothing beside itself, and can be read by somebody who has not seen the program. What is
missing stands at its top.
"""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib
from markupsafe import Markup

from tests.load import answer, plots
from tests.load.comparison import compare
from tests.load.stragglers import Nobody

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.figure import Figure

    from tests.load.comparison import Comparison, Entry, Spread
    from tests.load.scenario import Scenario
    from tests.load.search import Choice
    from tests.load.trials import Histogram, Result

TEMPLATE = Path(__file__).with_name("report.html.j2")

# Ink, faint lines and background of the pictures become those of the page, whichever its colors are.
_PAGE_COLORS = {
    "#333333": "var(--ink)",
    "#000000": "var(--ink)",
    "#bbbbbb": "var(--faint)",
    "#ffffff": "var(--paper)",
}


@dataclass(slots=True)
class Findings:
    """All that there is to report. `missing`: what was not measured, and why; `broken`: what broke off, and why.

    `command`: how to do the same again. `flood`: the figures of the second part, which know how to draw themselves.
    """

    date: str
    command: str
    machine: Mapping[str, Any]
    scenarios: list[Scenario]
    choices: dict[str, list[Choice]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0
    server: str = "a fresh ps-serve for each run, on this machine"
    flood: Any = None

    def comparisons(self) -> list[Comparison]:
        return [one for scenario in self.scenarios for one in compare(scenario, self.results)]

    @property
    def complete(self) -> bool:
        return not self.broken


@dataclass(frozen=True, slots=True)
class Plot:
    title: str
    caption: str
    svg: Markup


def write(findings: Findings, folder: Path) -> tuple[Path, Path]:
    """Write `DATE-load.html` and `DATE-load.json`. Returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = (folder / f"{findings.date}-load.{kind}" for kind in ("html", "json"))
    page.write_text(html(findings), encoding="utf-8")
    data.write_text(json.dumps(document(findings), indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    return page, data


def document(findings: Findings) -> dict[str, Any]:
    """Every figure, as plain data."""
    flood = findings.flood
    return {
        "date": findings.date,
        "complete": findings.complete,
        "broken": findings.broken,
        "missing": findings.missing,
        "command": findings.command,
        "machine": dict(findings.machine),
        "seconds": round(findings.seconds),
        "answer": answer.in_short(findings.comparisons()),
        "learning_rates": {name: [one.to_fields() for one in found] for name, found in findings.choices.items()},
        "results": [result.to_fields() for result in findings.results],
        "flood": flood.to_fields() if flood is not None else None,
    }


def html(findings: Findings) -> str:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    comparisons = findings.comparisons()
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        findings=findings,
        short=[*answer.in_short(comparisons), *filter(None, [answer.on_pace(comparisons)])],
        overview=answer.overview(comparisons),
        baselines=" or ".join(dict.fromkeys(str(one.baseline.system) for one in comparisons)),
        chapters=[_chapter(scenario, findings) for scenario in findings.scenarios],
        flood=_flood(findings.flood),
        duration=_duration(findings.seconds),
    )


def _chapter(scenario: Scenario, findings: Findings) -> dict[str, Any]:
    comparisons = compare(scenario, findings.results)
    choices = findings.choices.get(scenario.name, [])
    return {
        "scenario": scenario,
        "stragglers": [one.words for one in scenario.stragglers],
        "passages": answer.passages(comparisons) if comparisons else [],
        "choices": choices,
        "rates": sorted(
            {*scenario.learning_rates, *(one.learning_rate for choice in choices for one in choice.attempts)}
        ),
        "overview": _overview(comparisons) if comparisons else [],
        "sections": [{"comparison": one, "tables": _tables(one), "plots": [_curves(one)]} for one in comparisons],
    }


def _overview(comparisons: Sequence[Comparison]) -> list[Plot]:
    made = [
        Plot(
            "Time to the target",
            "Medians over the seeds; the line in a bar goes from the best seed to the worst.",
            svg(plots.times(comparisons)),
        ),
        Plot(
            "Work and waiting",
            "A worker-step is one accepted update of one worker. What waiting is stands under Method.",
            svg(plots.shares(comparisons)),
        ),
    ]
    distributions = plots.distributions(comparisons)
    if distributions is not None:
        made.append(
            Plot(
                "Staleness and lag",
                "Share of updates that were at most so stale, and of reads granted to a worker that was at most so far"
                " ahead of the slowest. Under DDP both are 0.",
                svg(distributions),
            )
        )
    equal = next((one for one in comparisons if isinstance(one.straggler, Nobody)), comparisons[0])
    made.append(
        Plot(
            "What it takes", f"Medians; {equal.straggler.title}. Memory is each process's own.", svg(plots.costs(equal))
        )
    )
    return made


def _curves(comparison: Comparison) -> Plot:
    caption = f"{comparison.straggler.words} A line for each seed; dashed: {comparison.scenario.target_accuracy:.0%}."
    return Plot("Accuracy", caption, svg(plots.curves(comparison)))


def _tables(comparison: Comparison) -> list[tuple[list[str], list[list[str]]]]:
    """Head and rows: first how fast it learns, then what it takes."""
    learning = [
        "",
        f"seconds to {comparison.scenario.target_accuracy:.0%}",
        "worker-steps/s",
        "steps/s",
        "waiting",
        f"accuracy after {comparison.equal_seconds:.2g} s",
        f"accuracy after {comparison.equal_updates:.0f} updates",
        "best accuracy",
    ]
    costs = [
        "",
        "lag: mean, greatest",
        "staleness: median, 95 of 100",
        "kB per update",
        "server: CPU ms per update",
        "workers: CPU ms per update",
        "server: own MiB",
        "workers: own MiB",
    ]
    rows = [(_learning(comparison, entry), _costs(entry)) for entry in comparison.entries]
    return [(learning, [row[0] for row in rows]), (costs, [row[1] for row in rows])]


def _learning(comparison: Comparison, entry: Entry) -> list[str]:
    reached = f", {entry.reached} of {len(entry.results)}" if 0 < entry.reached < len(entry.results) else ""

    def accuracy(value: float) -> str:
        return f"{100 * value:.1f}"

    return [
        str(entry.system),
        _spread(entry.seconds_to_target, lambda value: "never" if math.isinf(value) else f"{value:.2g}") + reached,
        _spread(entry.spread(lambda one: one.updates_per_second), _number),
        _spread(entry.spread(lambda one: one.steps_per_second), _number),
        _spread(entry.spread(lambda one: one.waiting_share), lambda share: f"{100 * share:.0f}", " %"),
        _spread(entry.spread(lambda one: one.accuracy_at(seconds=comparison.equal_seconds)), accuracy, " %"),
        _spread(entry.spread(lambda one: one.accuracy_at(updates=comparison.equal_updates)), accuracy, " %"),
        answer.percent(entry.best_accuracy),
    ]


def _costs(entry: Entry) -> list[str]:
    """Medians."""
    staleness, lag = entry.staleness, entry.lag
    computed = any(result.costs.network_is_computed for result in entry.results)

    def median(figure: Callable[[Result], float | None], factor: float) -> str:
        spread = entry.spread(figure)
        return "–" if spread is None else _number(factor * spread.median)

    return [
        str(entry.system),
        "–" if lag is None or lag.mean is None else f"{lag.mean:.1f}, {_at_most(lag.quantile(1.0), lag.bounds)}",
        _quantiles(staleness, 0.5, 0.95),
        median(lambda one: one.per_update(one.costs.network_bytes), 1e-3) + ("*" if computed else ""),
        median(lambda one: one.per_update(one.costs.server_cpu_seconds), 1e3),
        median(lambda one: one.per_update(one.costs.worker_cpu_seconds), 1e3),
        median(lambda one: one.costs.server_memory_bytes, 2**-20),
        median(lambda one: one.costs.worker_memory_bytes, 2**-20),
    ]


def _quantiles(histogram: Histogram | None, *shares: float) -> str:
    if histogram is None or not histogram.count:
        return "–"
    return ", ".join(_at_most(histogram.quantile(share), histogram.bounds) for share in shares)


def _at_most(value: float | None, bounds: Sequence[float]) -> str:
    """A bucket's bound."""
    assert value is not None
    return f"> {bounds[-1]:g}" if math.isinf(value) else f"≤ {value:g}" if value else "0"


def _spread(spread: Spread | None, form: Callable[[float], str], unit: str = "") -> str:
    """Median, least and greatest, or a dash."""
    if spread is None:
        return "–"
    low, median, high = (form(value) for value in (spread.low, spread.median, spread.high))
    unit = "" if median == "never" else unit
    return f"{median}{unit}" if low == high else f"{median}{unit} ({low}–{high})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _flood(figures: Any) -> dict[str, Any] | None:
    if figures is None:
        return None
    from tests.load.flood.plots import plots as flood_plots
    from tests.load.flood.words import words

    drawn = [Plot(title, caption, svg(figure)) for title, caption, figure in flood_plots(figures)]
    return {"words": words(figures), "plots": drawn}


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def svg(figure: Figure) -> Markup:
    """A picture to stand in the page, with the page's ink and background."""
    written = io.StringIO()
    # Text stays text: it can be found and copied, and takes less room.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "leeway"}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    for color, variable in _PAGE_COLORS.items():
        text = text.replace(color, variable)
    return Markup(text)
