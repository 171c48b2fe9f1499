"""What the stages of a replica show of themselves: their metrics, and the times that they tell the server."""

import json
import subprocess
import sys

import pytest

from tests.worker.test_against_server import ROOT, environment, serving

pytestmark = pytest.mark.e2e

STEPS, SAMPLES = 4, 16


@pytest.fixture(scope="module")
def seen():
    """What each of two stages has printed, its metrics by name and labels."""
    with serving("--lr", "0.01") as (_, url):
        command = [sys.executable, "-m", "tests.worker.watching.one_stage", url]
        stages = [
            subprocess.Popen(
                [*command, str(stage), str(STEPS)], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
            )
            for stage in range(2)
        ]
        try:
            printed = [json.loads(stage.communicate(timeout=60)[0].splitlines()[-1]) for stage in stages]
        finally:
            for stage in stages:
                stage.kill()
    return [each | {"metrics": {tuple(name): value for *name, value in each["metrics"]}} for each in printed]


@pytest.mark.parametrize("stage", [0, 1])
class TestMetrics:
    def test_who_it_is(self, seen, stage):
        [who] = [name for name in seen[stage]["metrics"] if name[0] == "info"]
        assert who[1:4] == ("r0", str(stage), "2")

    def test_an_iteration_is_computing_waiting_for_others_and_the_server(self, seen, stage):
        found = seen[stage]["metrics"]
        parts = [f"{part}_seconds" for part in ("compute", "bubble", "push", "wait", "pull")]
        assert {found[f"{part}_count",] for part in ("step_seconds", *parts)} == {STEPS}
        assert found["step_seconds_sum",] == pytest.approx(sum(found[f"{part}_sum",] for part in parts))
        assert found["bubble_seconds_sum",] >= seen[stage]["bubble_seconds"] > 0
        assert seen[stage]["compute_seconds"] > 0

    def test_what_it_holds_is_that_of_its_newest_iteration(self, seen, stage):
        found = seen[stage]["metrics"]
        assert found["micro_batches_in_flight",] == seen[stage]["in_flight"] == 2 - stage
        assert found["activation_bytes",] == seen[stage]["activation_bytes"] > 0

    def test_an_update_is_one_of_the_replica(self, seen, stage):
        found = seen[stage]["metrics"]
        assert sum(value for name, value in found.items() if name[0] == "pushes_total") == STEPS
        assert found["samples_total",] == STEPS * SAMPLES
        assert found["clock",] == STEPS
        assert found["dropped_iterations_total",] == 0

    def test_the_loss_is_told_where_it_is_known(self, seen, stage):
        assert (("loss",) in seen[stage]["metrics"]) == (stage == 1)


def test_what_one_hands_over_the_other_takes(seen):
    first, last = (each["metrics"] for each in seen)
    # Four micro-batches of four samples, sixteen numbers each; the answer to the last may still be on its way.
    least = ((STEPS - 1) * 4 + 3) * 4 * 16 * 4
    for one, other in ((first, last), (last, first)):
        assert least < one["handed_bytes_total",] <= other["taken_bytes_total",]
        assert one["handovers_resent_total",] == 0
