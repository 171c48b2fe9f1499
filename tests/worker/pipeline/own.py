"""A stage in the test's own process: of two, that count what they train (`Tally`)."""

import torch

from tests.worker.pipeline.script import MODELS

TALLY = MODELS["tally"]
CUT = {"cut": "2,2"}


def stage_of(session, stage, model=TALLY, **arguments):
    """Without a cut it is measured, and has not begun."""
    with torch.device("meta"):
        made = model.make()
    loss = model.loss if stage == 1 else None
    return session.pipeline(made, 2, stage, **{"micro_batches": 4, "loss": loss} | arguments)


def batch(place):
    return TALLY.batch({"share": [0, 1]}, place)


def train(pipeline):
    """To the end of the run."""
    while not pipeline.finished:
        pipeline.step(*batch(pipeline.committed))
