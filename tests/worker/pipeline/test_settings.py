import re

import pytest
import torch
from torch import nn

from leeway.worker.pipeline.schedules import SCHEDULES
from leeway.worker.pipeline.settings import pipeline_of

GIVEN = {
    "model": nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)),
    "stages": 2,
    "stage": 1,
    "micro_batches": 4,
    "loss": nn.functional.mse_loss,
    "blocks": None,
    "cut": "time",
    "schedule": "1f1b",
    "seed": 0,
    "device": "cpu",
    "recompute": False,
}


def settings(**changes):
    return pipeline_of(**GIVEN | changes)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": 0}, "stages is 0, it must be"),
        ({"stages": 2.5}, "stages is 2.5, it must be"),
        ({"stages": 4}, "4 stages, and the model has 3 layers; use at most 3 stages, or name smaller blocks"),
        ({"stage": 2}, "stage is 2, and there are 2: they are numbered from 0 to 1"),
        ({"stage": -1}, "stage is -1, it must be"),
        ({"micro_batches": 0}, "micro_batches is 0, it must be"),
        ({"micro_batches": "4"}, "micro_batches is '4', it must be"),
        ({"seed": -1}, "seed is -1, it must be"),
        ({"schedule": "2f2b"}, "there is no schedule '2f2b'; choose one of gpipe, 1f1b, zb-h1"),
        ({"schedule": 3}, "schedule is 3"),
        ({"cut": "1,1"}, "the cut 1,1 has 2 layers, and the model 3; let the numbers add up"),
        (
            {"cut": "fast"},
            "the cut 'fast' must be time, memory, or numbers of layers such as 2,3,3, one for each stage",
        ),
        ({"cut": "1,1,1"}, "the cut 1,1,1 is for 3 stages, and there are 2; give a number for each"),
        ({"cut": 3}, "cut is 3"),
        ({"loss": None}, "loss is None, and the last stage needs one: loss(output, target), a mean"),
        ({"loss": "mse"}, "loss is 'mse', and the last stage needs one"),
        ({"device": "gpu"}, "device is 'gpu', it must be one of torch's, such as cpu or cuda:0"),
        ({"model": nn.Sequential(nn.ReLU(), nn.ReLU())}, "the model has no parameters"),
        ({"model": nn.Transformer}, "the model must be a torch.nn.Module or a list of those"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(changes, words):
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        settings(**changes)
    assert "\n" not in str(raised.value)


def test_only_the_last_stage_needs_a_loss():
    assert settings(stage=0, loss=None).loss is None


def test_a_cut_by_measuring():
    assert settings(cut="memory").measured
    assert not settings(cut="1,2").measured
    assert not settings(stages=1, stage=0).measured, "there is nothing to choose"


@pytest.mark.parametrize(("schedule", "room"), [("1f1b", 2), ("gpipe", 4), ("zb-h1", 2)])
def test_room_for_as_many_as_one_stage_is_ahead_of_another(schedule, room):
    chosen = settings(schedule=schedule)
    assert chosen.schedule is SCHEDULES[schedule]
    assert chosen.room == room
    assert chosen.device == torch.device("cpu")
