"""The picture of the story: each worker's loss, how far it is ahead, and what it does, on one axis of time.

The one rule: it draws what the server has written down (`ps-serve --history`), and what its versions are worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.demo.gpt.plan import Plan
    from tests.demo.timeline import Timeline

# Okabe and Ito's palette, told apart by most eyes.
COLORS = ("#0072B2", "#009E73", "#D55E00")
WAITING = "#DDDDDD"
GONE = "#F3E3DA"
INK = "#333333"

LAG_WIDTHS = (4.0, 2.0, 2.0)

# A worker's losses of so many iterations are averaged for its line.
SMOOTHED = 8

Curve = list[tuple[float, float]]


def draw(path: Path, plan: Plan, title: str, timeline: Timeline, killed_at: float, held_out: Curve) -> None:
    """Write the picture as PNG. `held_out`: the server's model on text that nobody trains on, as seconds and loss."""
    figure = Figure(figsize=(11, 8.2), dpi=130, layout="constrained")
    losses, lags, lanes = figure.subplots(3, 1, sharex=True, height_ratios=(2.1, 1, 0.8))
    colors = dict(zip(plan.naps, COLORS, strict=True))
    _losses(losses, timeline, colors, held_out)
    _lags(lags, timeline, colors, plan)
    _lanes(lanes, timeline, colors)
    for axes in (losses, lags, lanes):
        _gap(axes, plan, timeline, killed_at)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(colors=INK)
    _marks(losses, plan, timeline, killed_at)
    losses.set_title(title, loc="left", fontweight="bold", pad=26)
    lanes.set_xlim(0, timeline.seconds)
    lanes.set_xlabel("seconds since all had begun")
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)


def _losses(axes: Axes, timeline: Timeline, colors: dict[str, str], held_out: Curve) -> None:
    for rank, color in colors.items():
        for points in _by_life(rank, timeline):
            axes.plot(*zip(*points, strict=True), ".", color=color, ms=3, alpha=0.25)
            axes.plot(*zip(*smoothed(points), strict=True), color=color, lw=1.6)
    axes.plot(*zip(*held_out, strict=True), color=INK, lw=1.4, ls=(0, (4, 2)))
    handles = [Line2D([], [], color=color, label=rank) for rank, color in colors.items()]
    handles.append(Line2D([], [], color=INK, ls=(0, (4, 2)), label="the server's model, on held-out text"))
    axes.legend(handles=handles, loc="lower left", frameon=False, bbox_to_anchor=(-0.01, 1), ncols=4, borderaxespad=0)
    axes.set_ylabel("loss, nats a character")


def _by_life(rank: str, timeline: Timeline) -> list[Curve]:
    """The losses that a worker reported, apart for each of its lives: seconds and nats."""
    curves = []
    for life in timeline.lives[rank]:
        ends = [one for one in timeline.iterations[rank] if life.begin <= one.end <= (life.end or one.end)]
        curve = [(one.end - timeline.start, one.loss) for one in ends if one.loss is not None]
        curves.append(curve)
    return [curve for curve in curves if curve]


def smoothed(points: Sequence[tuple[float, float]]) -> Curve:
    """The mean of each value and those before it, `SMOOTHED` at most."""
    values = [value for _, value in points]
    windows = [values[max(0, end - SMOOTHED) : end] for end in range(1, len(values) + 1)]
    return [(moment, sum(window) / len(window)) for (moment, _), window in zip(points, windows, strict=True)]


def _lags(axes: Axes, timeline: Timeline, colors: dict[str, str], plan: Plan) -> None:
    # Who is as far ahead as another is not to be hidden by that one's line.
    for (rank, color), width in zip(colors.items(), LAG_WIDTHS, strict=True):
        for life in timeline.lives[rank]:
            points = [one for one in timeline.iterations[rank] if life.begin <= one.begin <= (life.end or one.begin)]
            moments = [one.begin - timeline.start for one in points]
            axes.step(moments, [one.lag for one in points], where="post", color=color, lw=width)
    axes.axhline(plan.staleness, color=INK, lw=0.8, ls=(0, (4, 3)))
    bound = f"the bound: {plan.staleness}"
    axes.text(1, plan.staleness + 0.4, bound, ha="right", color=INK, transform=axes.get_yaxis_transform())
    axes.set_ylim(-0.5, plan.staleness + 2.5)
    axes.set_ylabel("iterations ahead\nof the slowest")


def _lanes(axes: Axes, timeline: Timeline, colors: dict[str, str]) -> None:
    """Who computes and who waits. What is left white is the time in which an update is taken and applied."""
    for place, (rank, color) in enumerate(colors.items()):
        computing = [(one.begin - timeline.start, one.end - one.begin) for one in timeline.iterations[rank]]
        waiting = [(wait.begin - timeline.start, wait.end - wait.begin) for wait in timeline.waits[rank]]
        axes.broken_barh(computing, (place - 0.36, 0.72), color=color, lw=0)
        axes.broken_barh(waiting, (place - 0.36, 0.72), color=WAITING, lw=0)
    axes.set_yticks(range(len(colors)), list(colors))
    axes.set_ylim(len(colors) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    handles = [tuple(Patch(color=color) for color in colors.values()), Patch(color=WAITING), Patch(color=GONE)]
    axes.legend(handles=handles, labels=["computes", "waits for a slower one", "a worker is gone"],
                handler_map={tuple: HandlerTuple(ndivide=None, pad=0)}, loc="upper center", bbox_to_anchor=(0.5, -0.35),
                ncols=3, frameon=False)  # fmt: skip


def _gap(axes: Axes, plan: Plan, timeline: Timeline, killed_at: float) -> None:
    returned = _returned(plan, timeline, killed_at)
    axes.axvspan(killed_at - timeline.start, returned - timeline.start, color=GONE, lw=0, zorder=0)


def _returned(plan: Plan, timeline: Timeline, killed_at: float) -> float:
    return next(life.begin for life in timeline.lives[plan.victim] if life.begin > killed_at)


def _marks(axes: Axes, plan: Plan, timeline: Timeline, killed_at: float) -> None:
    """What happened to the victim, at the top of the picture."""
    evicted = next(life.end for life in timeline.lives[plan.victim] if life.end and life.end > killed_at)
    marks = [
        (killed_at, f"{plan.victim} is killed ", "right"),
        (evicted, f" evicted after {plan.lease_seconds:g} s of silence:\n the others go on", "left"),
        (_returned(plan, timeline, killed_at), f" {plan.victim} is back", "left"),
    ]
    for moment, words, side in marks:
        axes.axvline(moment - timeline.start, color=INK, lw=0.8)
        axes.text(
            moment - timeline.start, 0.98, words, ha=side, va="top", color=INK, transform=axes.get_xaxis_transform()
        )
