"""What a training run does in a window of time, once it is warm.

The one rule: a rate is counted from the first to the last step in the window, by the times at which they were made,
so that neither starting nor stopping is in it. A worker-step is one accepted update, a step one new set of parameters.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.bench.runs import run
from tests.bench.server import mean

if TYPE_CHECKING:
    from tests.bench.jobs import Job, System
    from tests.bench.runs import Run

# Before the window begins: every rank has been through its first iterations, which allocate and connect.
WARM_STEPS = 5

# The server writes its history every 0.1 s.
SETTLE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Window:
    """Rates are per second. `parts`: mean seconds of one worker's iteration, by part. Processor seconds are per
    worker-step, and 0 where the system does not tell; `apply`: the mean of one step of the server.
    """

    steps_per_second: float
    worker_steps_per_second: float
    parts: dict[str, float]
    worker_cpu_seconds: float
    server_cpu_seconds: float
    apply_seconds: float

    def rates(self) -> dict[str, float]:
        return {"steps": self.steps_per_second, "worker-steps": self.worker_steps_per_second}


def watch(system: System, job: Job, seconds: float) -> Window:
    """Start a run, let it get warm, watch it for so long, end it."""
    with TemporaryDirectory(prefix="leeway-bench-") as folder, run(system, job, Path(folder)) as running:
        warm = WARM_STEPS * (1 if system.joint else job.workers)
        running.wait_for(lambda: len(running.step_times()) >= warm)
        serving = running.serving
        begin = max(running.step_times().values())
        before = _state(running), serving.metrics() if serving else {}
        time.sleep(seconds)
        after = _state(running), serving.metrics() if serving else {}
        time.sleep(SETTLE_SECONDS)
        times = sorted(one for one in running.step_times().values() if begin <= one <= begin + seconds)
    steps = (len(times) - 1) / (times[-1] - times[0])
    spent = {key: after[0][key] - before[0][key] for key in after[0]}
    count = spent.pop("count")
    means = {key: value / count for key, value in spent.items()}
    return Window(
        steps_per_second=steps,
        worker_steps_per_second=steps * job.workers if system.joint else steps,
        worker_cpu_seconds=means.pop("worker cpu"),
        server_cpu_seconds=means.pop("server cpu"),
        parts=means,
        apply_seconds=mean(before[1], after[1], "apply_seconds"),
    )


def _state(running: Run) -> dict[str, float]:
    worker_cpu = sum(rank.cpu_seconds for rank in running.ranks)
    server_cpu = running.serving.process.cpu_seconds if running.serving else 0.0
    return {**running.parts(), "worker cpu": worker_cpu, "server cpu": server_cpu}
