"""The picture of a run: accuracy over time, accuracy over updates, and who waited when.

The one rule: it draws what was measured; a line's points are the versions that were downloaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from tests.demo.plan import RANKS, TARGET_ACCURACY, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.demo.report import Result

# Okabe and Ito's palette, told apart by most eyes.
COLORS = {"sync": "#0072B2", "ssp": "#009E73", "async": "#D55E00"}
WAITING = "#DDDDDD"
INK = "#333333"
# How much of the color is left where a worker is slow.
SLOW_SHADE = 0.5

# The part of the run in which it is shown who waits: from a second on, when all are on their way.
WINDOW_SECONDS = (1.0, 4.0)
LOWEST_ACCURACY = 0.6


def draw(path: Path, plan: Plan, results: Sequence[Result]) -> None:
    """Write the picture as PNG."""
    figure = Figure(figsize=(11, 6.8), dpi=130, layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.3, 1), squeeze=False)[:, 0]
    over_time, over_updates = upper.subplots(1, 2, sharey=True, width_ratios=(1.6, 1))
    _curves(over_time, over_updates, results)
    lower.suptitle("Three seconds of each", x=0.006, ha="left", fontweight="bold")
    for axes, result in zip(lower.subplots(1, len(results), sharey=True, squeeze=False)[0], results, strict=True):
        _who_waits(axes, plan, result)
    colors = [COLORS[result.mode.name] for result in results]
    figure.legend(
        handles=[
            tuple(Patch(color=color) for color in colors),
            tuple(Patch(color=_slow(color)) for color in colors),
            Patch(color=WAITING),
        ],
        labels=["computes", "computes, slowed by a sleep", "waits for others"],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)


def _curves(over_time: Axes, over_updates: Axes, results: Sequence[Result]) -> None:
    for result in results:
        color = COLORS[result.mode.name]
        accuracies = [point.accuracy for point in result.points]
        over_time.plot([point.seconds for point in result.points], accuracies, color=color, lw=1.8)
        over_updates.plot([point.updates for point in result.points], accuracies, color=color, lw=1.8)
        _mark(over_time, result)
    for axes, label in ((over_time, "seconds"), (over_updates, "updates from workers")):
        axes.axhline(TARGET_ACCURACY, color=INK, lw=0.8, ls=(0, (4, 3)))
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.set_ylim(LOWEST_ACCURACY, 1.0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _plain(axes)
    over_time.set_title("Test accuracy over time", loc="left", fontweight="bold")
    over_updates.set_title("… over work done", loc="left", fontweight="bold")
    over_time.legend(handles=[_handle(result) for result in results], loc="lower right", frameon=False)


def _mark(axes: Axes, result: Result) -> None:
    seconds = result.figures.seconds_to_target
    if seconds is not None:
        point = next(point for point in result.points if point.seconds == seconds)
        axes.plot(
            [seconds], [point.accuracy], "o", color=COLORS[result.mode.name], ms=8, mec="white", mew=1.2, zorder=5
        )


def _handle(result: Result) -> Patch:
    figures = result.figures
    reached = figures.seconds_to_target
    when = f"never {TARGET_ACCURACY:.0%}" if reached is None else f"{TARGET_ACCURACY:.0%} after {reached:.1f} s"
    return Patch(color=COLORS[result.mode.name], label=f"{result.mode.title}: {when}")


def _who_waits(axes: Axes, plan: Plan, result: Result) -> None:
    """A bar for each worker: the mode's color while it computes, a lighter one while it is the slow one, gray while it
    waits. What is left white is the time in which an update is taken and applied."""
    timeline, color = result.timeline, COLORS[result.mode.name]
    for place, rank in enumerate(RANKS):
        waits = [(wait.begin - timeline.start, wait.end - wait.begin) for wait in timeline.waits.get(rank, ())]
        bars: dict[str, list[tuple[float, float]]] = {color: [], _slow(color): [], WAITING: waits}
        for one in timeline.iterations.get(rank, ()):
            shade = _slow(color) if plan.naps(one.clock, one.index, one.count) else color
            bars[shade].append((one.begin - timeline.start, one.end - one.begin))
        for shade, spans in bars.items():
            axes.broken_barh(spans, (place - 0.36, 0.72), color=shade, lw=0)
    axes.set_xlim(*WINDOW_SECONDS)
    axes.set_yticks(range(len(RANKS)), RANKS)
    axes.set_ylim(len(RANKS) - 0.4, -0.6)
    axes.set_xlabel("seconds")
    axes.set_title(f"{result.mode.title}: {timeline.waiting_share:.0%} waiting", loc="left", color=color)
    _plain(axes)
    axes.tick_params(axis="y", length=0)


def _slow(color: str) -> str:
    red, green, blue = (1 - SLOW_SHADE * (1 - part) for part in to_rgb(color))
    return to_hex((red, green, blue))


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK)
