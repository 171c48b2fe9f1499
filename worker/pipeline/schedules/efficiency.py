"""What a schedule can reach at best: the share of all stages' time in which they compute.

The one rule: links cost nothing here, so no run is better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from leeway.worker.pipeline.schedules.schedule import Act, Action

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.worker.pipeline.schedules.schedule import Schedule


def bound(seconds: Sequence[float], micro_batches: int) -> float:
    """M sum(t) / (P ((M - 1) max(t) + sum(t))) for the time t of each stage with one micro-batch, there and back.

    Exact for equal stages: 1 - (P - 1) / (M + P - 1). With unequal ones it is what is reached if the micro-batches
    follow one another through the slowest stage at its pace; see `best` for what the order of a schedule makes of it.
    """
    total = sum(seconds)
    return micro_batches * total / (len(seconds) * ((micro_batches - 1) * max(seconds) + total))


def best(schedule: Schedule, forward: Sequence[float], backward: Sequence[float], micro_batches: int) -> float:
    """The efficiency of this schedule with these seconds of each stage for one micro-batch."""
    busy = micro_batches * (sum(forward) + sum(backward))
    return busy / (len(forward) * makespan(schedule, forward, backward, micro_batches))


def makespan(schedule: Schedule, forward: Sequence[float], backward: Sequence[float], micro_batches: int) -> float:
    """Seconds from the first forward to the last backward. A schedule that splits halves the backward pass."""
    return max(moment.ended for moment in played(schedule, forward, backward, micro_batches))


class Moment(NamedTuple):
    """What a stage does, from when to when, in seconds since the iteration began."""

    stage: int
    action: Action
    began: float
    ended: float


def played(schedule: Schedule, forward: Sequence[float], backward: Sequence[float], micro_batches: int) -> list[Moment]:
    """What every stage does when, if it waits for nothing but what it needs."""
    moments: list[Moment] = []
    stages = len(forward)
    half = 2 if schedule.splits else 1
    lasts = {
        Act.FORWARD: forward,
        Act.BACKWARD: [seconds / half for seconds in backward],
        Act.WEIGHTS: [seconds / half for seconds in backward],
    }
    left = [list(reversed(schedule.actions(stage, stages, micro_batches))) for stage in range(stages)]
    now = [0.0] * stages
    ended: dict[tuple[int, Action], float] = {}
    while any(left):
        for stage, actions in enumerate(left):
            while actions and (before := _awaited(stage, stages, actions[-1], ended)) is not None:
                action = actions.pop()
                began = max(now[stage], before)
                now[stage] = ended[stage, action] = began + lasts[action.act][stage]
                moments.append(Moment(stage, action, began, now[stage]))
    return moments


def _awaited(stage: int, stages: int, action: Action, ended: dict[tuple[int, Action], float]) -> float | None:
    """When what this action takes from a neighbour is there; None while that is not known."""
    if action.act is Act.FORWARD and stage > 0:
        return ended.get((stage - 1, action))
    if action.act is Act.BACKWARD and stage < stages - 1:
        return ended.get((stage + 1, action))
    return 0.0
