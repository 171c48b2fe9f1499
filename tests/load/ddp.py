"""Runs a trial under DistributedDataParallel over gloo: the same workers, without a server.

The one rule: what is said of it comes from its ranks' own logs, whose times are of one clock.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.processes import Failed
from tests.load import tunnel
from tests.load.forks import ANSWER_SECONDS, fork, own_memory_bytes
from tests.load.leeway import straggling, worker_flags
from tests.load.trials import Costs, Result, Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.load.forks import Fork
    from tests.load.trials import Trial

_LOOK_SECONDS = 0.02


def run(trial: Trial, folder: Path, data_dir: Path) -> tuple[Result, list[Snapshot]]:
    """Run it in an empty folder. A run that breaks off is a result too, with the reason."""
    scenario = trial.scenario
    with ExitStack() as stack:
        try:
            namespaces = _network(stack, trial, folder) if scenario.network else []
        except (Failed, OSError) as error:
            return Result(trial=trial, seconds=0.0, failure=f"before it began: {error}"), []
        ranks: list[Fork] = []
        for rank in range(scenario.workers):
            arguments = [str(folder), str(rank), str(scenario.workers), scenario.task]
            arguments += [*worker_flags(trial, data_dir, rank), "--lr", repr(trial.learning_rate)]
            arguments += ["--snapshot-seconds", str(scenario.snapshot_seconds)]
            arguments += ["--interface", tunnel.INTERFACE] if namespaces else []
            namespace = namespaces[rank] if namespaces else None
            name = f"w{rank}"
            ranks.append(
                stack.enter_context(fork(name, "tests.bench.ddp:main", arguments, folder, namespace=namespace))
            )
        stack.callback(lambda: [rank.kill() for rank in ranks])
        try:
            begin = _gather(folder, ranks)
        except Failed as error:
            return Result(trial=trial, seconds=0.0, failure=f"before it began: {error}"), []
        failure = _wait(trial, ranks, begin)
        worker_cpu_seconds = sum(rank.cpu_seconds for rank in ranks)
        worker_memory_bytes = own_memory_bytes(ranks)
    return _result(trial, folder, begin, failure, worker_cpu_seconds, worker_memory_bytes)


def _network(stack: ExitStack, trial: Trial, folder: Path) -> list[str]:
    """A network namespace for each rank, with a slow network between them. Raises `Failed` and `OSError`."""
    network = trial.scenario.network
    assert network is not None
    namespaces = stack.enter_context(tunnel.namespaces(trial.scenario.workers))
    arguments = [*namespaces, "--delay", str(network.delay_seconds)]
    arguments += ["--up", str(network.up_bytes_per_second), "--down", str(network.down_bytes_per_second)]
    stack.enter_context(fork("tunnel", "tests.load.tunnel:main", arguments, folder)).lines()
    return namespaces


def _gather(folder: Path, ranks: Sequence[Fork]) -> float:
    """The moment at which rank 0 began its first iteration, once it has done it. Raises `Failed`."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while not (rows := read_steps(folder, 0)):
        for rank in ranks:
            rank.check()
        if time.monotonic() > deadline:
            raise Failed(f"the ranks have not gathered in {ANSWER_SECONDS:.0f} s")
        time.sleep(_LOOK_SECONDS)
    return rows[0].ended - rows[0].seconds


def _wait(trial: Trial, ranks: Sequence[Fork], begin: float) -> str | None:
    actions = straggling(trial, ranks[-1])
    end = begin + trial.seconds
    try:
        while (now := time.monotonic()) < end:
            time.sleep(max(0.0, min(_LOOK_SECONDS, end - now)))
            while actions and time.monotonic() >= begin + actions[0][0]:
                actions.pop(0)[1]()
            for rank in ranks:
                rank.check()
    except Failed as error:
        return f"{error}, {time.monotonic() - begin:.1f} s after the start"
    return None


@dataclass(frozen=True, slots=True)
class Step:
    """A line of a rank's log: when the step ended, how long it took, and how long from its gradients to everybody's."""

    ended: float
    seconds: float
    reducing_seconds: float


def read_steps(folder: Path, rank: int) -> list[Step]:
    """The complete lines of a rank's log."""
    path = folder / f"{rank}.steps"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [[float(cell) for cell in line.split()] for line in lines if line.endswith("\n")]
    return [Step(row[0], row[1], row[3]) for row in rows]


def waiting_shares(steps: Sequence[Sequence[Step]], seconds: float) -> dict[str, float]:
    """By rank: the share of the time in which it waited for others.

    In each step, what its all-reduce took longer than that of the rank that came last, for whom it is transfer alone.
    """
    waited = [0.0] * len(steps)
    for together in zip(*steps, strict=False):
        transfer = min(step.reducing_seconds for step in together)
        for rank, step in enumerate(together):
            waited[rank] += step.reducing_seconds - transfer
    return {f"w{rank}": one / seconds for rank, one in enumerate(waited)} if seconds else {}


def _result(
    trial: Trial, folder: Path, begin: float, failure: str | None, worker_cpu_seconds: float, worker_memory_bytes: float
) -> tuple[Result, list[Snapshot]]:
    world = trial.scenario.workers
    end = begin + trial.seconds
    everything = [[one for one in read_steps(folder, rank) if one.ended <= end] for rank in range(world)]
    ended = [step.ended - begin for step in everything[0]]
    # A run that broke off was there until its last step.
    seconds = trial.seconds if failure is None else max(ended, default=0.0)
    snapshots = []
    for path in sorted(folder.glob("*.safetensors"), key=lambda one: int(one.stem)):
        number = int(path.stem)
        if number <= len(ended):
            snapshots.append(Snapshot(ended[number - 1], number * world, path.read_bytes()))
    half = sum(one > seconds / 2 for one in ended)
    # A ring all-reduce sends 2 (n - 1) / n of the model from each of n ranks (Patarasuk and Yuan 2009).
    model_bytes = len(snapshots[0].body) if snapshots else 0
    result = Result(
        trial=trial,
        seconds=seconds,
        steps=len(ended),
        updates=len(ended) * world,
        waiting=waiting_shares(everything, seconds),
        paces={f"w{rank}": half / (seconds / 2) for rank in range(world)} if seconds else {},
        costs=Costs(
            network_bytes=2 * (world - 1) * model_bytes * len(ended),
            network_is_computed=True,
            worker_cpu_seconds=worker_cpu_seconds,
            worker_memory_bytes=worker_memory_bytes,
        ),
        failure=failure,
    )
    return result, snapshots
