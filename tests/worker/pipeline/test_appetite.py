"""A stage takes its share of the memory that one worker takes, measured in real processes."""

import json
import sys

import pytest

from tests.worker.pipeline.replicas import Stage

pytestmark = pytest.mark.e2e

ALLOWED = 1.3


def peaks(replicas, stages, micro_batches=0):
    """Of each process, in MiB, beyond that of an idle one."""
    server = replicas.serve("--mode", "async", "--lr", "0.1")
    made = []
    for stage in range(max(1, stages)):
        given = {"url": server.url, "stages": stages, "stage": stage, "micro_batches": micro_batches}
        forked = replicas.fork(f"{stages}-{stage}", "tests.worker.pipeline.appetite:main", [json.dumps(given)])
        made.append(Stage(forked, replicas.folder))
    found = [stage.ended()["peak"] for stage in made]
    server.kill()
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_largest_stage_takes_its_share(replicas):
    (whole,) = peaks(replicas, 0)
    for stages in (2, 4):
        found = peaks(replicas, stages, stages)
        assert max(found) <= ALLOWED / stages * whole, (stages, found, whole)
        assert min(found) > 0.5 / stages * whole, "it is measured"
