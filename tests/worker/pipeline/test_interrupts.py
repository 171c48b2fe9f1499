"""Ctrl-C at any line of a stage's `step`, `evaluate` and `begin`, then the same call again: batches count once."""

from random import Random

import pytest

import leeway
from tests.worker.pipeline.own import CUT, batch, stage_of
from tests.worker.test_interrupted_calls import Interrupt

pytestmark = pytest.mark.e2e

FLAGS = ("--mode", "async", "--optimizer", "sgd", "--lr", "1", "--lease", "0.3")


class Script:
    """Makes each call again until it is done, interrupted at lines that are drawn."""

    def __init__(self, seed, lines):
        self._draws, self._lines = Random(seed), lines
        self._interrupt = Interrupt()
        self.where = []

    def call(self, call):
        try:
            with self._interrupt.at(self._draws.randrange(1, self._lines)):
                call()
        except KeyboardInterrupt:
            self.where.append(self._interrupt.where)
            return False
        return True


@pytest.mark.parametrize("stage", [0, 1])
def test_a_step(stage, replicas):
    batches, script = 20, Script(stage, 3000)
    server = replicas.serve(*FLAGS, "--until", batches)
    other = replicas.stage(server.url, 1 - stage, arguments=CUT)
    with leeway.connect(server.url, "w0") as session:
        pipeline = stage_of(session, stage, **CUT)
        while not pipeline.finished:
            script.call(lambda: pipeline.step(*batch(pipeline.committed)))
        assert pipeline.committed == batches
    other.ended()
    server.check_counts(batches)
    assert len(set(script.where)) > 15


def test_an_evaluation(replicas):
    batches, script = 12, Script(3, 4000)
    server = replicas.serve(*FLAGS, "--until", batches)
    other = replicas.stage(server.url, 1, arguments=CUT, evaluate=True)
    with leeway.connect(server.url, "w0") as session:
        pipeline = stage_of(session, 0, **CUT)
        while not pipeline.finished:
            place, judged = pipeline.committed, []
            script.call(lambda place=place, judged=judged: judged.append(pipeline.evaluate(*batch(place))))
            if any(judged):
                script.call(lambda place=place: pipeline.step(*batch(place)))
    other.ended()
    server.check_counts(batches)
    assert sorted({row["place"] for row in other.rows if "evaluated" in row}) == list(range(batches))
    assert len(set(script.where)) > 8


def test_a_beginning(replicas):
    """Of stage after stage, each in the place of the one before."""
    batches, script = 12, Script(4, 5000)
    server = replicas.serve(*FLAGS, "--until", batches)
    other = replicas.stage(server.url, 1)
    for place in range(batches):
        with leeway.connect(server.url, "w0") as session:
            pipeline = stage_of(session, 0)
            while not script.call(lambda pipeline=pipeline: pipeline.begin(batch(0)[0])):
                pass
            assert pipeline.committed == place
            pipeline.step(*batch(place))
    other.ended()
    server.check_counts(batches)
    assert len(set(script.where)) > 6
