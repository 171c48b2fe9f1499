"""The pictures of a scenario: accuracy over time and over updates, time to the target, waiting, staleness, costs.

The one rule: it draws what was measured: a thin line for each seed, whiskers from the best seed to the worst. Ink and
background are colors that the page replaces by its own, in the light and in the dark.
"""

from __future__ import annotations

import math
from textwrap import fill
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from tests.load.comparison import Comparison, Entry, Spread
    from tests.load.systems import System
    from tests.load.trials import Histogram, Result

INK, FAINT = "#333333", "#BBBBBB"

# Okabe and Ito's palette, told apart by most eyes.
_COLORS = {"DDP": "#CC79A7", "sync": "#0072B2", "async": "#D55E00"}
_BOUNDS = ("#56B4E9", "#009E73", "#E69F00", "#F0E442")

WIDTH = 10.5
# Beside each other, systems of one group of bars fill so much of it.
_GROUP = 0.84
_LABEL_CHARACTERS = 20


def colors(systems: Sequence[System]) -> dict[System, str]:
    """Bounds of ssp by their order; a single one is always green."""
    bounds = sorted((one for one in systems if one.bound is not None), key=lambda one: one.bound or 0)
    shades = _BOUNDS if len(bounds) > 1 else _BOUNDS[1:]
    own = {system: shades[number % len(shades)] for number, system in enumerate(bounds)}
    return {system: own.get(system) or _COLORS[str(system)] for system in systems}


def curves(comparison: Comparison) -> Figure:
    """Accuracy of every seed, over time and over updates."""
    shades = colors([entry.system for entry in comparison.entries])
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    over_time, over_updates = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
    target = comparison.scenario.target_accuracy
    for entry in comparison.entries:
        for result in entry.results:
            accuracies = [point.accuracy for point in result.points]
            style = {"color": shades[entry.system], "lw": 0.9, "alpha": 0.85}
            over_time.plot([point.seconds for point in result.points], accuracies, **style)
            over_updates.plot([point.updates for point in result.points], accuracies, **style)
    for axes, label in ((over_time, "seconds"), (over_updates, "updates from workers")):
        axes.axhline(target, color=INK, lw=0.8, ls=(0, (4, 3)))
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _plain(axes)
    # The way from 4 times the target's error on is what differs.
    over_time.set_ylim(max(0.0, 1 - 4 * (1 - target) - 0.1), min(1.0, 1 - (1 - target) / 4))
    _right_end(over_updates, comparison)
    over_time.set_title("Test accuracy over time", loc="left", fontsize=10)
    over_updates.set_title("… over work done", loc="left", fontsize=10)
    _legend(figure, shades)
    return figure


def _right_end(axes: Axes, comparison: Comparison) -> None:
    """Up to twice what the slowest to learn needed, so that one that is far ahead does not squeeze the others."""
    needed = [entry.updates_to_target.median for entry in comparison.entries]
    finite = [one for one in needed if math.isfinite(one)]
    if finite:
        axes.set_xlim(right=2 * max(finite))


def times(comparisons: Sequence[Comparison]) -> Figure:
    """Time to the target by straggler and system; a bar that ends in an arrow never got there."""
    target, limit = comparisons[0].scenario.target_accuracy, comparisons[0].scenario.run_seconds
    figure, axes, shades = _bars_figure(comparisons, 3.2)

    def draw(at: float, width: float, entry: Entry, color: str) -> None:
        spread = entry.seconds_to_target
        if math.isinf(spread.median):
            axes.bar(at, limit, width, color="none", edgecolor=color, hatch="////", lw=0.8)
            axes.annotate(
                "never",
                (at, limit),
                rotation=90,
                ha="center",
                va="top",
                fontsize=7,
                color=INK,
                xytext=(0, -4),
                textcoords="offset points",
            )
        else:
            axes.bar(at, spread.median, width, color=color)
            _whisker(axes, at, spread, limit)

    _groups(comparisons, draw, shades)
    axes.set_ylim(0, limit * 1.02)
    axes.set_ylabel(f"seconds to {target:.0%}")
    _legend(figure, shades)
    return figure


def shares(comparisons: Sequence[Comparison]) -> Figure:
    """Updates a second, and the share of time in which workers waited."""
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    shades = _shades(comparisons)
    for axes, figure_of, label, title in (
        (upper, lambda one: one.updates_per_second, "updates/s", "Worker-steps a second"),
        (lower, lambda one: one.waiting_share, "share of time", "Share of a worker's time spent waiting"),
    ):
        _spread_bars(axes, comparisons, figure_of, shades)
        axes.set_ylabel(label)
        axes.set_title(title, loc="left", fontsize=10)
        _ticks(axes, comparisons)
    lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    lower.set_ylim(0, 1)
    _legend(figure, shades)
    return figure


def distributions(comparisons: Sequence[Comparison]) -> Figure | None:
    """How stale updates were, and how far ahead workers were when they were let read: shares up to a value."""
    shades = _shades(comparisons)
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    grid = figure.subplots(2, len(comparisons), sharey=True, sharex="row", squeeze=False)
    drawn = 0
    for column, comparison in enumerate(comparisons):
        for entry in comparison.entries:
            for axes, histogram in ((grid[0][column], entry.staleness), (grid[1][column], entry.lag)):
                if histogram is not None and histogram.count:
                    _cumulative(axes, histogram, shades[entry.system])
                    drawn += 1
        grid[0][column].set_title(comparison.straggler.title, loc="left", fontsize=8)
    for row, label in ((grid[0], "staleness, in versions"), (grid[1], "lag at a grant, in iterations")):
        for axes in row:
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_xlabel(label, fontsize=8)
            _plain(axes)
    _legend(figure, {system: color for system, color in shades.items() if not system.is_ddp})
    return figure if drawn else None


def costs(comparison: Comparison) -> Figure:
    """Bytes, processor time and memory of each system."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    shades = colors([entry.system for entry in comparison.entries])
    names = [str(entry.system) for entry in comparison.entries]
    panels: tuple[tuple[str, tuple[Callable[[Result], float | None], ...]], ...] = (
        ("kB on the network per update", (lambda one: _scaled(one.per_update(one.costs.network_bytes), 1e-3),)),
        (
            "ms of processor time per update\nworkers, and on top the server",
            (
                lambda one: _scaled(one.per_update(one.costs.worker_cpu_seconds), 1e3),
                lambda one: _scaled(one.per_update(one.costs.server_cpu_seconds), 1e3),
            ),
        ),
        (
            "MiB of memory\nworkers, and on top the server",
            (
                lambda one: _scaled(one.costs.worker_memory_bytes, 2**-20),
                lambda one: _scaled(one.costs.server_memory_bytes, 2**-20),
            ),
        ),
    )
    for axes, (title, parts) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for place, entry in enumerate(comparison.entries):
            bottom = 0.0
            for part, alpha in zip(parts, (0.55 if len(parts) > 1 else 1.0, 1.0), strict=False):
                spread = entry.spread(part)
                if spread is not None:
                    axes.barh(place, spread.median, 0.7, left=bottom, color=shades[entry.system], alpha=alpha)
                    bottom += spread.median
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        _plain(axes)
        axes.tick_params(axis="y", length=0)
    return figure


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _cumulative(axes: Axes, histogram: Histogram, color: str) -> None:
    up_to, points = 0.0, []
    for bound, share in zip(histogram.bounds, histogram.shares, strict=False):
        up_to += share
        points.append((bound, up_to))
    # Where everything is below, the line need not go on for ever.
    end = next((number for number, (_, share) in enumerate(points, 1) if share > 0.9995), len(points))
    axes.plot(*zip(*points[:end], strict=True), color=color, lw=1.4, marker="o", ms=2.5, drawstyle="steps-post")


def _bars_figure(comparisons: Sequence[Comparison], height: float) -> tuple[Figure, Axes, dict[System, str]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _ticks(axes, comparisons)
    return figure, axes, _shades(comparisons)


def _shades(comparisons: Sequence[Comparison]) -> dict[System, str]:
    return colors(list(dict.fromkeys(entry.system for one in comparisons for entry in one.entries)))


def _groups(
    comparisons: Sequence[Comparison], draw: Callable[[float, float, Entry, str], None], shades: dict[System, str]
) -> None:
    for place, comparison in enumerate(comparisons):
        width = _GROUP / len(comparison.entries)
        for number, entry in enumerate(comparison.entries):
            draw(place - _GROUP / 2 + (number + 0.5) * width, 0.88 * width, entry, shades[entry.system])


def _spread_bars(
    axes: Axes,
    comparisons: Sequence[Comparison],
    figure_of: Callable[[Result], float | None],
    shades: dict[System, str],
) -> None:
    def draw(at: float, width: float, entry: Entry, color: str) -> None:
        spread = entry.spread(figure_of)
        if spread is not None:
            axes.bar(at, spread.median, width, color=color)
            _whisker(axes, at, spread, math.inf)

    _groups(comparisons, draw, shades)


def _whisker(axes: Axes, at: float, spread: Spread, limit: float) -> None:
    axes.plot([at, at], [spread.low, min(spread.high, limit)], color=INK, lw=1.1)


def _ticks(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    axes.set_xticks(range(len(comparisons)), [fill(one.straggler.title, _LABEL_CHARACTERS) for one in comparisons])
    axes.set_xlim(-0.5, len(comparisons) - 0.5)
    _plain(axes)
    axes.tick_params(axis="x", length=0)


def _legend(figure: Figure, shades: dict[System, str]) -> None:
    handles = [Patch(color=color, label=str(system)) for system, color in shades.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, labelcolor=INK)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, which="both")
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.title.set_color(INK)
