"""A server that stands still, and workers that say nothing while they wait: nobody of them is dead."""

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import leeway
from leeway.worker.train.tasks.task import resolve
from tests.end_to_end.commands import ROOT, SMALL
from tests.guarantees import judge, read

pytestmark = pytest.mark.e2e

LEASE_SECONDS = 2.0
STOPPED_SECONDS = 4.0


def train(url, rank, slow_seconds):
    """A busy worker, until the run is finished; how many updates it has handed in."""
    task = resolve(SMALL)(None, None)
    model = task.model(0)
    count = 0
    with leeway.connect(url, rank) as session:
        session.attach(model)
        while not session.finished:
            task.loss(model, *task.batch(np.arange(8), torch.device("cpu"))).backward()
            time.sleep(slow_seconds)
            count += session.step(samples=8).disposition is not None
    return count


def test_a_stopped_server_evicts_nobody(commands):
    """Their heartbeats lie in its sockets when it goes on; under `sync` the quick one's parked pull waits too."""
    flags = ("--mode", "sync", "--workers", 2, "--lease", LEASE_SECONDS, "--history", "history.jsonl", "--until", 200)
    server = commands.serve(*flags)
    with ThreadPoolExecutor(2) as threads:
        working = [threads.submit(train, server.url, f"w{index}", 0.01 + 0.02 * index) for index in range(2)]
        for policy, version in (({"mode": "sync"}, 20), ({"mode": "async"}, 80)):
            server.ask("PUT", "/v1/policy", policy)
            server.version(at_least=version)
            server.signal(signal.SIGSTOP)
            time.sleep(STOPPED_SECONDS)  # the pause itself
            server.signal(signal.SIGCONT)
            workers = server.status()["workers"]
            assert max(one["groups"]["default"]["waiting_seconds"] for one in workers) < STOPPED_SECONDS
        counts = [worker.result() for worker in working]
    server.wait()
    pauses = [row["seconds"] for row in server.events("the server stood still")]
    assert len(pauses) >= 2
    assert sum(pauses) > 2 * STOPPED_SECONDS - 1
    facts = judge(read(commands.folder / "history.jsonl"))
    assert sorted(one[1:] for one in facts.ended) == [("w0", 1, "left"), ("w1", 1, "left")]
    assert len(facts.told) == len(facts.applied) == sum(counts) == 2 * 200, "all updates are kept"


def test_the_worker_of_the_docs_waits_for_longer_than_its_lease(commands):
    """It has no heartbeat: what keeps it alive is its open pull, which waits for a second worker."""
    page = (ROOT / "docs" / "how-to" / "without-python.md").read_text()
    (script,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    lease_seconds = 0.75
    flags = ("--mode", "sync", "--workers", 2, "--lease", lease_seconds, "--until", 1, "--lr", 0.1)
    server = commands.serve(*flags, "--history", "history.jsonl")
    (commands.folder / "sample.py").write_text(script.replace("http://127.0.0.1:8080", server.url))
    sample = commands.python("sample", "sample.py")
    server.hear('"waits"')
    time.sleep(2.5 * lease_seconds)  # the silence itself
    late = server.ask("POST", "/v1/workers", {"rank": "late", "session": "s"})
    server.ask("DELETE", f"/v1/workers/late?epoch={late['epoch']}&incarnation={late['incarnation']}")
    sample.wait()
    server.wait()
    facts = judge(read(commands.folder / "history.jsonl"))
    assert sorted(one[1:] for one in facts.ended) == [("late", 1, "left"), ("raw", 1, "left")]
    assert facts.finished
