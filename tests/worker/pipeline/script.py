"""A training script for one stage, as a user writes it: a loop over `pipeline.committed`. It says in JSON what it did.

`main([settings])`: a JSON object with `url`, `rank`, `stages`, `stage`, `model` (of `MODELS`), `arguments` of
`session.pipeline`, and what else is asked of it: see `DEFAULTS`.
"""

import json
import os
import sys
import threading
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import leeway
from leeway.errors import WireError
from leeway.worker.train.tasks.digits import Digits
from tests.worker.pipeline.models import kinds

PLACES = 512
SAMPLES = 8

DEFAULTS = {
    "arguments": {},
    "meta": True,
    "evaluate": False,  # before each step
    "last": [],  # calls behind the loop
    "lingers": False,  # behind the loop, until it is killed
    "skips": [],  # the places at which it has no update
    "fails_at": None,  # the loss raises once, at this place in the data
    "micro_batches": None,  # of each step, where not those of the pipeline
    "sizes": None,  # of the micro-batches, which are given as lists
    "stop": None,  # a file: where it is there, the figure `stop` is 1
    "pace_seconds": 0.0,  # what a forward pass of this stage takes longer
    "share": [0, 1],  # which batches of the data set are this replica's: number, of how many
    "start_together": 1,
    "patience_seconds": 60.0,
    "torch": torch.__version__,  # what it takes itself to be
}


class Tally(nn.Module):
    """Counts in its weights, with a learning rate of 1, how often a batch of each place was trained."""

    def __init__(self, pace_seconds=0.0):
        super().__init__()
        self.count = nn.Parameter(torch.zeros(PLACES))
        self.pace_seconds = pace_seconds

    def extra_repr(self):
        return f"{PLACES} places"

    def reset_parameters(self):
        nn.init.zeros_(self.count)

    def forward(self, value):
        place, total = value if isinstance(value, tuple) else (value, value.new_zeros(len(value)))
        time.sleep(self.pace_seconds)
        return place, total + place @ self.count


def tallied(value, _):
    return -value[1].mean()


def by_place(settings, place):
    number, of = settings["share"]
    return functional.one_hot(torch.full((SAMPLES,), place * of + number), PLACES).float(), torch.zeros(SAMPLES)


class Pause(nn.Module):
    def __init__(self):
        super().__init__()
        self.pace_seconds = 0.0

    def forward(self, value):
        time.sleep(self.pace_seconds)
        return value


def digits():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), Pause(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


@cache
def task():
    return Digits(None)


def digits_at(settings, place):
    """The replica's own batch, a function of the place alone."""
    number, of = settings["share"]
    draw = np.random.default_rng(place * of + number)
    return task().batch(draw.integers(task().train_samples(), size=64), torch.device("cpu"))


@dataclass
class Model:
    make: Any
    loss: Any
    batch: Any
    blocks: Any = None


def of_kind(kind):
    """Its one batch, turned by the place."""
    return Model(
        kind.make,
        kind.loss,
        lambda _, place: (kind.inputs.roll(place, 0), kind.targets.roll(place, 0)),
        kind.blocks,
    )


def still():
    """A stage of frozen layers alone, and one with a frozen parameter."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    for frozen in (*model[0].parameters(), model[3].bias):
        frozen.requires_grad_(False)
    return model


def more_kinds():
    """Stages that have nothing to push, or only buffers."""
    kind = kinds()["mlp"]
    return kinds() | {
        "relu": replace(kind, make=lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))),
        "frozen": replace(kind, make=still),
        "statistics": replace(
            kind, make=lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 4))
        ),
    }


MODELS = {name: of_kind(kind) for name, kind in more_kinds().items()}
MODELS["tally"] = Model(lambda: nn.Sequential(*(Tally() for _ in range(4))), tallied, by_place)
MODELS["tally of 5"] = Model(lambda: nn.Sequential(*(Tally() for _ in range(5))), tallied, by_place)
MODELS["digits"] = Model(digits, functional.cross_entropy, digits_at)


def say(**row):
    print(json.dumps(row), flush=True)


def main(given):
    settings = DEFAULTS | json.loads(given[0])
    model = MODELS[settings["model"]]
    failing = [settings["fails_at"]]
    torch.set_num_threads(1)
    torch.__version__ = settings["torch"]

    def loss(output, target):
        if failing[0] is not None and pipeline.committed == failing[0]:
            failing[0] = None
            raise ArithmeticError("this loss fails once")
        return model.loss(output, target)

    with torch.device("meta" if settings["meta"] else "cpu"):
        whole = model.make()
    for module in whole.modules():
        if isinstance(module, (Tally, Pause)):
            module.pace_seconds = settings["pace_seconds"]
    model.batch(settings, 0)  # data are there before anybody waits for them
    connected = {name: settings[name] for name in ("start_together", "patience_seconds")}
    try:
        with leeway.connect(settings["url"], settings["rank"], **connected) as session:
            say(pid=os.getpid())
            pipeline = session.pipeline(
                whole,
                settings["stages"],
                settings["stage"],
                loss=loss,
                blocks=model.blocks,
                **{"micro_batches": 4} | settings["arguments"],
            )
            pipeline.begin(model.batch(settings, 0)[0])
            train(settings, model, pipeline)
            for call in settings["last"]:
                getattr(pipeline, call)(*([model.batch(settings, 0)[0]] if call == "evaluate" else []))
            if settings["lingers"]:
                threading.Event().wait()
            say(ending=str(pipeline.ending), committed=pipeline.committed, finished=session.finished)
    except (WireError, ValueError) as error:
        say(error=str(error), code=str(getattr(error, "code", "")))
        sys.exit(1)


def train(settings, model, pipeline):
    while not pipeline.finished:
        place = pipeline.committed
        inputs, targets = model.batch(settings, place)
        if settings["sizes"]:
            inputs, targets = list(inputs.split(settings["sizes"])), list(targets.split(settings["sizes"]))
        if settings["evaluate"]:
            judged = pipeline.evaluate(inputs, targets)
            if judged is None:  # a stage was lost: all of them begin this place anew
                continue
            say(place=place, evaluated=judged.loss)
        if place in settings["skips"]:
            say(place=place, skipped=str(pipeline.skip()))
            continue
        try:
            stop = settings["stop"] is not None and Path(settings["stop"]).exists()
            figures = {"place": place, "stop": float(stop)}
            outcome = pipeline.step(inputs, targets, figures, micro_batches=settings["micro_batches"])
        except ArithmeticError as error:
            say(place=place, failed=str(error))
            continue
        say(
            place=place,
            outcome=str(outcome),
            accepted=not outcome.dropped,
            loss=pipeline.loss,
            version=pipeline.version,
            at=time.time(),
        )
