"""The pictures of the flood: what a server does over the number of workers, a line for each model size.

The one rule: a point is a cell that was measured; what failed leaves a gap, nothing is smoothed or filled in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from tests.load.flood.figures import count, size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from tests.load.flood.figures import FloodFigures, Load

# Okabe and Ito's palette, told apart by most eyes; one color and one marker for each model size, from small to large.
STYLES = (
    ("#0072B2", "o"),
    ("#E69F00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#D55E00", "v"),
    ("#56B4E9", "P"),
)
INK, FAINT = "#333333", "#BBBBBB"

_BACKGROUND = "white"


def plots(figures: FloodFigures) -> list[tuple[str, str, Figure]]:
    """Title, caption and figure of each picture. Without a single cell that was measured there is none."""
    if not figures.loads():
        return []
    made = [
        (
            "Throughput",
            "Left: updates that were pushed, applied and answered with the new parameters. Right: bodies in and out."
            " Each worker pushes again as soon as it has its answer, so this is the most that so many workers get."
            + (" Dashed: bare aiohttp with bodies of the same size and the same clients." if figures.ceilings else ""),
            _throughput(figures),
        ),
        (
            "Latency of a push-pull",
            "From the first byte of the update to the last byte of the parameters; left the median, right what one in a"
            " hundred exceeds. Once the server is busy it grows with the number of workers: they queue for one loop.",
            _latency(figures),
        ),
        (
            "Memory and event loop",
            "Left: the most memory that the server's process held; dotted, workers times model, which is what lies in"
            " it when all push at the same time. Right: how late its event loop was (99 of 100 timers were earlier);"
            " an arrow stands where it is beyond the server's last bucket.",
            _strain(figures),
        ),
        (
            "Processor time, and the waking of many",
            "Left: processor time of the server for a GiB of bodies, in or out. Right: everybody parked under sync but"
            " one: from the last contribution to the first answer and to the last one, medians.",
            _costs(figures),
        ),
    ]
    return made


def _throughput(figures: FloodFigures) -> Figure:
    figure, (left, right) = _pair()
    _lines(left, figures, lambda load: load.updates_per_second)
    if figures.ceilings:
        counts = [one.workers for one in figures.ceilings]
        rates = [one.updates_per_second for one in figures.ceilings]
        left.plot(counts, rates, color=INK, lw=1.2, ls=(0, (4, 3)), label="bare aiohttp")
        left.annotate(
            f"bare aiohttp, {size(figures.ceilings[0].model_bytes)}",
            (counts[len(counts) // 2], rates[len(counts) // 2]),
            (0, -14),
            textcoords="offset points",
            ha="center",
            fontsize="small",
            color=INK,
        )
    _titled(left, "Updates per second", figures)
    _lines(right, figures, lambda load: load.bytes_per_second / 1e9)
    _titled(right, "GB per second, in and out", figures)
    return _with_legend(figure, left)


def _latency(figures: FloodFigures) -> Figure:
    figure, (left, right) = _pair(sharey=True)
    _lines(left, figures, lambda load: load.p50_seconds)
    _titled(left, "Median", figures)
    _lines(right, figures, lambda load: load.p99_seconds)
    _titled(right, "p99", figures)
    for axes in (left, right):
        axes.yaxis.set_major_formatter(FuncFormatter(_duration))
        axes.yaxis.set_tick_params(labelleft=True)
    return _with_legend(figure, left)


def _strain(figures: FloodFigures) -> Figure:
    figure, (left, right) = _pair()
    _lines(left, figures, lambda load: load.resident_bytes)
    low = left.get_ylim()[0]
    for model_bytes, (color, _) in _styles(figures).items():
        cells = [(n, n * model_bytes) for n, size_bytes in sorted(figures.loads()) if size_bytes == model_bytes]
        cells = [(n, nbytes) for n, nbytes in cells if nbytes >= low]
        left.plot([n for n, _ in cells], [nbytes for _, nbytes in cells], color=color, lw=1, ls=":", zorder=1)
    if left.get_yscale() == "log":
        left.set_yscale("log", base=2)
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: size(round(value))))
    left.yaxis.set_minor_locator(NullLocator())
    _titled(left, "Memory of the server", figures)
    highest = _lines(right, figures, lambda load: load.loop_lag_p99_seconds)
    right.yaxis.set_major_formatter(FuncFormatter(_duration))
    for model_bytes, (color, marker) in _styles(figures).items():
        beyond = [
            n
            for (n, size_bytes), load in figures.loads().items()
            if size_bytes == model_bytes and load.loop_lag_p99_seconds == math.inf
        ]
        for n in beyond:
            right.annotate("", (n, highest * 2.2), (n, highest * 1.3), arrowprops={"arrowstyle": "->", "color": color})
            right.plot([n], [highest * 1.3], marker, color=color, ms=5)
    _titled(right, "Event loop late by (p99)", figures)
    return _with_legend(figure, left)


def _costs(figures: FloodFigures) -> Figure:
    figure, (left, right) = _pair()
    _lines(left, figures, lambda load: load.cpu_seconds_per_gib or None)
    _titled(left, "Processor seconds per GiB", figures)
    wakes = sorted(figures.wakes, key=lambda one: one.workers)
    for label, seconds, style, filled, below in (
        ("all are answered", [one.all_seconds for one in wakes], "-", True, False),
        ("the first is answered", [one.first_seconds for one in wakes], "--", False, True),
    ):
        shown = [math.nan if one.failed else value for one, value in zip(wakes, seconds, strict=True)]
        color, marker = STYLES[0]
        face = color if filled else _BACKGROUND
        right.plot([one.workers for one in wakes], shown, style, color=color, marker=marker, ms=5, lw=1.6, mfc=face)
        _note(right, label, [(one.workers, value) for one, value in zip(wakes, shown, strict=True)], below=below)
    _log_scaled(right)
    right.yaxis.set_major_formatter(FuncFormatter(_duration))
    _titled(right, f"sync, {size(wakes[0].model_bytes)}: time to answer" if wakes else "sync: not measured", figures)
    return _with_legend(figure, left)


# The parts of every picture.


def _pair(*, sharey: bool = False) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(11, 4.6), dpi=110, layout="constrained", facecolor=_BACKGROUND)
    return figure, figure.subplots(1, 2, sharey=sharey, gridspec_kw={"wspace": 0.06})


def _styles(figures: FloodFigures) -> dict[int, tuple[str, str]]:
    models = sorted({cell.model_bytes for cell in figures.cells})
    return {model_bytes: STYLES[place % len(STYLES)] for place, model_bytes in enumerate(models)}


def _lines(axes: Axes, figures: FloodFigures, value: Callable[[Load], float | None]) -> float:
    """A line for each model size, broken where a cell has no figure. Returns the highest value."""
    loads, highest = figures.loads(), 0.0
    for model_bytes, (color, marker) in _styles(figures).items():
        counts = sorted({cell.workers for cell in figures.cells if cell.model_bytes == model_bytes})
        found = [value(loads[n, model_bytes]) if (n, model_bytes) in loads else None for n in counts]
        shown = [math.nan if one is None or not math.isfinite(one) else one for one in found]
        highest = max([highest, *(one for one in shown if one == one)])
        axes.plot(counts, shown, color=color, marker=marker, ms=5, lw=1.6, label=size(model_bytes), clip_on=False)
    _log_scaled(axes)
    return highest


def _log_scaled(axes: Axes) -> None:
    """Both axes, unless there is nothing on them to scale by."""
    axes.set_xscale("log")
    if any((np.asarray(line.get_ydata(), float) > 0).any() for line in axes.lines):
        axes.set_yscale("log")


def _titled(axes: Axes, title: str, figures: FloodFigures) -> None:
    axes.set_title(title, loc="left", fontweight="bold", color=INK)
    axes.set_xlabel("workers", color=INK)
    axes.set_facecolor(_BACKGROUND)
    counts = sorted({cell.workers for cell in figures.cells})
    axes.set_xticks(counts, [count(n) for n in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
    if axes.yaxis.get_major_formatter().__class__.__name__ != "FuncFormatter":
        axes.yaxis.set_major_formatter(FuncFormatter(_plain_number))
    axes.grid(axis="y", color=FAINT, lw=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)


def _with_legend(figure: Figure, axes: Axes) -> Figure:
    handles, labels = axes.get_legend_handles_labels()
    sized = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label != "bare aiohttp"]
    figure.legend(
        [handle for handle, _ in sized],
        [label for _, label in sized],
        loc="outside lower center",
        ncols=len(sized),
        frameon=False,
        title="size of the model",
    )
    return figure


def _note(axes: Axes, text: str, points: Sequence[tuple[float, float]], *, below: bool) -> None:
    """Words beside a rising line: left of its last point, or under its middle, on the right."""
    known = [(x, y) for x, y in points if y == y]
    if known:
        at, place, side = (known[len(known) // 2], (8, -12), "left") if below else (known[-1], (-9, 2), "right")
        axes.annotate(text, at, place, textcoords="offset points", ha=side, fontsize="small", color=INK)


def _duration(seconds: float, _: object = None) -> str:
    if seconds >= 1:
        return f"{seconds:g} s"
    return f"{seconds * 1e3:g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:g} µs"


def _plain_number(value: float, _: object = None) -> str:
    return count(round(value)) if value >= 1 else f"{value:g}"
