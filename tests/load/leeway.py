"""Runs a trial under one of Leeway's policies: a server, its workers, and the straggler among them.

The one rule: server and workers are the commands, started with their flags; only a server that ran before us is
switched over HTTP instead.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from leeway.worker.starting import START_BARRIER
from tests.bench.processes import Failed
from tests.load.forks import ANSWER_SECONDS, fork
from tests.load.reader import Reader, Refused
from tests.load.stragglers import Stopping
from tests.load.trials import Result
from tests.load.watching import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.load.forks import Fork
    from tests.load.remote import Remote
    from tests.load.trials import Snapshot, Trial

# While the workers gather.
_GATHER_SECONDS = 0.02


def run(trial: Trial, folder: Path, data_dir: Path, remote: Remote | None = None) -> tuple[Result, list[Snapshot]]:
    """Run it in an empty folder. A run that breaks off is a result too, with the reason."""
    with ExitStack() as stack:
        try:
            if remote is None:
                server, url = _server(stack, trial, folder)
            else:
                server, url = None, remote.prepare(trial)
            return _run(stack, trial, folder, data_dir, server, url, remote.prefix if remote else "")
        except (Failed, OSError, Refused) as error:
            return Result(trial=trial, seconds=0.0, failure=f"before it began: {error}"), []


def _server(stack: ExitStack, trial: Trial, folder: Path) -> tuple[Fork, str]:
    flags = ["--port", "0", "--log-level", "warning", "--workers", str(trial.scenario.workers)]
    flags += [*trial.system.flags, "--optimizer", "sgd", "--lr", repr(trial.learning_rate)]
    if isinstance(trial.straggler, Stopping):
        flags += ["--lease", str(trial.straggler.lease_seconds)]
    server = stack.enter_context(fork("server", "leeway.ps.cli:main", flags, folder))
    return server, server.lines()[0]


def worker_flags(trial: Trial, data_dir: Path, rank: int) -> list[str]:
    """Those that `ps-worker` and `tests.bench.ddp` have in common."""
    scenario = trial.scenario
    flags = ["--batch-size", str(scenario.batch_size), "--seed", str(trial.seed), "--data-dir", str(data_dir)]
    flags += ["--pace", str(scenario.pace_seconds), *trial.straggler.flags(rank, scenario.workers)]
    return flags + (["--model", scenario.model] if scenario.model else [])


def _run(
    stack: ExitStack, trial: Trial, folder: Path, data_dir: Path, server: Fork | None, url: str, prefix: str
) -> tuple[Result, list[Snapshot]]:
    scenario = trial.scenario
    ranks = [f"{prefix}w{rank}" for rank in range(scenario.workers)]
    urls = _through_network(stack, trial, folder, url) if scenario.network else [url] * scenario.workers
    reader = Reader(url)
    stack.callback(reader.close)
    forgotten = int(reader.status()["groups"]["default"]["updates"]) if server is None else 0
    workers: list[Fork] = []
    # Unwound first: all are asked to end at once, then each is waited for.
    for number, rank in enumerate(ranks):
        flags = [scenario.task, "--server", urls[number], "--rank", rank, "--start-together", str(scenario.workers)]
        flags += ["--device", "cpu", "--log-level", "warning", *worker_flags(trial, data_dir, number)]
        workers.append(stack.enter_context(fork(rank, "leeway.worker.train.cli:main", flags, folder)))
    stack.callback(lambda: [worker.ask_to_end() for worker in workers])
    processes = [*([server] if server else []), *workers]
    _gather(reader, ranks, processes)
    watch = Watch(reader, ranks, server, workers, forgotten)
    failure = _watch(watch, trial, processes, workers[-1])
    return _result(trial, watch, failure), watch.snapshots()


def _through_network(stack: ExitStack, trial: Trial, folder: Path, url: str) -> list[str]:
    network, address = trial.scenario.network, urlsplit(url)
    assert network is not None
    flags = [f"{address.hostname}:{address.port}", "--workers", str(trial.scenario.workers)]
    flags += ["--delay", str(network.delay_seconds)]
    flags += ["--up", str(network.up_bytes_per_second), "--down", str(network.down_bytes_per_second)]
    proxy = stack.enter_context(fork("proxy", "tests.load.proxy:main", flags, folder))
    return proxy.lines(trial.scenario.workers)


def _gather(reader: Reader, ranks: Sequence[str], processes: Sequence[Fork]) -> None:
    """Wait until all workers have passed the barrier at the start, and there are parameters. Raises `Failed`."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        status = reader.status()
        live = {worker["rank"] for worker in status["workers"]}
        passed = status["barriers"].get(START_BARRIER, 0) and status["groups"]["default"]["version"]
        if live.issuperset(ranks) and passed:
            return
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            raise Failed(f"the workers have not gathered in {ANSWER_SECONDS:.0f} s: {', '.join(sorted(live))} have")
        time.sleep(_GATHER_SECONDS)


def _watch(watch: Watch, trial: Trial, processes: Sequence[Fork], last: Fork) -> str | None:
    """Look until the time is over. Returns why the run broke off, or None."""
    begin = watch.begin.at
    end, due = begin + trial.seconds, begin + trial.scenario.snapshot_seconds
    actions = straggling(trial, last)
    try:
        while (now := time.monotonic()) < end:
            wake = min(due, end, *(begin + at for at, _ in actions[:1]))
            time.sleep(max(0.0, wake - now))
            while actions and time.monotonic() >= begin + actions[0][0]:
                actions.pop(0)[1]()
            for process in processes:
                process.check()
            if (now := time.monotonic()) >= min(due, end):
                watch.take(half_time=now >= (begin + end) / 2)
                # Looks that came too late are left out.
                due = max(due + trial.scenario.snapshot_seconds, time.monotonic())
        watch.finish()
    except (Failed, OSError, Refused) as error:
        for process in processes:
            process.wait_a_little()
        ended = next((str(process.failure()) for process in processes if process.exit_code is not None), str(error))
        return f"{ended}, {time.monotonic() - begin:.1f} s after the start"
    return None


def straggling(trial: Trial, last: Fork) -> list[tuple[float, Callable[[], None]]]:
    """What happens to the last rank, and when (seconds from the start)."""
    straggler = trial.straggler
    if not isinstance(straggler, Stopping):
        return []
    return [(straggler.at_seconds, last.stop), (straggler.at_seconds + straggler.for_seconds, last.go_on)]


def _result(trial: Trial, watch: Watch, failure: str | None) -> Result:
    return Result(
        trial=trial,
        seconds=watch.seconds,
        steps=watch.steps,
        updates=watch.updates,
        waiting=watch.waiting,
        paces=watch.paces,
        staleness=watch.staleness,
        lag=watch.lag,
        costs=watch.costs,
        failure=failure,
    )
