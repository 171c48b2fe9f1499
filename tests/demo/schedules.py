"""Draws what the stages of a pipeline do when, under each schedule: the picture in `docs/topics/pipelines.md`.

python -m tests.demo.schedules
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from leeway.worker.pipeline.schedules import SCHEDULES
from leeway.worker.pipeline.schedules.efficiency import best, played
from leeway.worker.pipeline.schedules.schedule import Act

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Patch

STAGES, MICRO_BATCHES = 4, 8
FORWARD, BACKWARD = 1.0, 2.0
COLOURS = {Act.FORWARD: "#4878a8", Act.BACKWARD: "#e0a040", Act.WEIGHTS: "#78a860"}
WORDS = {Act.FORWARD: "forward", Act.BACKWARD: "backward", Act.WEIGHTS: "gradients of weights"}
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "pipeline.png"


def draw(path: Path) -> None:
    figure, axes = plt.subplots(len(SCHEDULES), 1, figsize=(10, 6), sharex=True, layout="constrained")
    seconds = [FORWARD] * STAGES, [BACKWARD] * STAGES
    for axis, schedule in zip(axes, SCHEDULES.values(), strict=True):
        for moment in played(schedule, *seconds, MICRO_BATCHES):
            place, length = moment.began, moment.ended - moment.began
            axis.barh(moment.stage, length, 0.86, place, color=COLOURS[moment.action.act], edgecolor="white")
            number = str(moment.action.micro_batch)
            axis.text(place + length / 2, moment.stage, number, ha="center", va="center", color="white", fontsize=8)
        computing = best(schedule, *seconds, MICRO_BATCHES)
        held = ", ".join(str(schedule.held(stage, STAGES, MICRO_BATCHES)) for stage in range(STAGES))
        axis.set_title(
            f"{schedule.name}: {computing:.0%} computing; activations of {held} micro-batches are kept",
            loc="left",
            fontsize=10,
        )
        axis.set_yticks(range(STAGES), [f"stage {stage}" for stage in range(STAGES)])
        axis.invert_yaxis()
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False)
    axes[-1].set_xlabel("time, in forwards of one micro-batch")
    patches = [Patch(color=colour) for colour in COLOURS.values()]
    figure.legend(patches, WORDS.values(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw(PICTURE)
