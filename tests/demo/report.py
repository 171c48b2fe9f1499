"""What came out: one row of figures a mode, as a table for people and as JSON.

The one rule: a figure is what was measured in this run, and it is said how it is defined.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tests.demo.evaluation import Point, reached
from tests.demo.plan import TARGET_ACCURACY, Mode, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.demo.timeline import Timeline

DEFINITIONS = {
    "steps/s": "optimizer steps, each of which published a version, by the time from the moment all workers were ready "
    "to the last version",
    "worker-steps/s": "the workers' updates in these steps, by the same time",
    f"time to {TARGET_ACCURACY:.0%}": "from that moment to the publication of the first version with this accuracy on "
    "the 360 test digits, among those downloaded, about one every 0.1 s; evaluated after the run",
    "waiting": "share of the workers' time in which the server put off their pull, from that moment to their last push",
    "largest lag": "iterations ahead of the slowest worker, at the begin of an iteration",
    "mean staleness": "versions published between the one an update was computed from and the one it went into",
    "final accuracy": "of the last version",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """One mode's. Times in seconds, shares and accuracies from 0 to 1; `seconds_to_target` None: never reached."""

    mode: str
    seconds: float
    steps: int
    worker_steps: int
    steps_per_second: float
    worker_steps_per_second: float
    seconds_to_target: float | None
    waiting_share: float
    largest_lag: int
    mean_staleness: float
    final_accuracy: float
    best_accuracy: float


@dataclass(frozen=True, slots=True)
class Result:
    mode: Mode
    timeline: Timeline
    points: Sequence[Point]

    @property
    def figures(self) -> Figures:
        timeline = self.timeline
        return Figures(
            mode=self.mode.title,
            seconds=timeline.seconds,
            steps=timeline.steps,
            worker_steps=timeline.worker_steps,
            steps_per_second=timeline.steps / timeline.seconds,
            worker_steps_per_second=timeline.worker_steps / timeline.seconds,
            seconds_to_target=reached(self.points, TARGET_ACCURACY),
            waiting_share=timeline.waiting_share,
            largest_lag=timeline.largest_lag,
            mean_staleness=timeline.mean_staleness,
            final_accuracy=self.points[-1].accuracy,
            best_accuracy=max(point.accuracy for point in self.points),
        )


def table(results: Sequence[Result]) -> Table:
    """The figures, 80 columns wide."""
    drawn = Table(
        title="Measured in this run",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    drawn.add_column("mode", no_wrap=True)
    for heading in DEFINITIONS:
        # A column is as wide as its longest word; a compound may be broken.
        words = heading.replace("-", "- ").split()
        drawn.add_column(" ".join(words), justify="right", width=max(7, *(len(word) for word in words)))
    for result in results:
        drawn.add_row(*_row(result.figures))
    return drawn


def meanings() -> Table:
    """How each figure is defined."""
    drawn = Table.grid(padding=(0, 2, 0, 0))
    for name, meaning in DEFINITIONS.items():
        drawn.add_row(name, meaning, style="dim")
    return drawn


def _row(figures: Figures) -> list[str]:
    if figures.seconds_to_target is None:
        to_target = f"never (best {figures.best_accuracy:.1%})"
    else:
        to_target = f"{figures.seconds_to_target:.1f} s"
    return [
        figures.mode,
        f"{figures.steps_per_second:.1f}",
        f"{figures.worker_steps_per_second:.1f}",
        to_target,
        f"{figures.waiting_share:.0%}",
        str(figures.largest_lag),
        f"{figures.mean_staleness:.1f}",
        f"{figures.final_accuracy:.1%}",
    ]


def write_json(path: Path, plan: Plan, results: Sequence[Result]) -> None:
    """Write figures, their definitions, the plan, the machine, and each mode's accuracy over time."""
    document: dict[str, Any] = {
        "plan": {**asdict(plan), "in_words": str(plan)},
        "definitions": DEFINITIONS,
        "machine": machine(),
        "modes": {
            result.mode.name: {
                **asdict(result.figures),
                "accuracy": [asdict(point) for point in result.points],
            }
            for result in results
        },
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, str | int]:
    """What the figures were measured with."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch"),
    }
