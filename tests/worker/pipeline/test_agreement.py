import json

import pytest
import torch
from torch import nn

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.limits import MAX_NOTES
from leeway.worker.pipeline.agreement import Announcement, Notes, check_values, decided, model_digest
from leeway.worker.pipeline.costs import LayerCost
from leeway.worker.pipeline.layers import Layers

NAMES = ("0", "1")
COSTS = tuple(LayerCost(name, 0.00125, 0.25, 10, 40, 80, 16, 8) for name in NAMES)


@pytest.mark.parametrize("notes", [Notes(), Notes(COSTS), Notes(COSTS, (1, 1)), Notes(None, (2,)), Notes(holds="7.4")])
def test_what_is_written_is_read(notes):
    assert Notes.read(notes.write(), NAMES) == notes


def test_seconds_are_told_to_four_places():
    (cost,) = Notes.read(Notes((LayerCost("0", 0.123456, 1.0, 1, 4, 0, 0, 0),)).write(), ("0",)).costs
    assert cost.forward_seconds == 0.1235


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "null", '{"costs": 3}', '{"costs": [[1]]}', '{"cut": "x"}', '{"cut": [null]}', '{"at": [1]}'],
)
def test_what_cannot_be_read_says_nothing(text):
    assert Notes.read(text, NAMES) == Notes()


def test_costs_of_another_model_say_nothing():
    assert Notes.read(Notes(COSTS).write(), ("0", "1", "2")) == Notes()


def test_negative_costs_say_nothing():
    row = json.loads(Notes(COSTS).write())
    row["costs"][0][2] = -1
    assert Notes.read(json.dumps(row), NAMES) == Notes()


def test_more_layers_than_can_be_told():
    many = COSTS[:1] * MAX_NOTES
    with pytest.raises(ValueError, match=r"costs of \d+ layers are too many to tell; name larger blocks"):
        Notes(many).write()


def test_a_cut_that_was_decided_stands():
    assert decided([Notes(COSTS), Notes(COSTS, (1, 1))], 2, 2) == (1, 1)
    assert decided([Notes(COSTS), Notes()], 2, 2) is None
    with pytest.raises(ValueError, match="is for 2 stages, and there are 3"):
        decided([Notes(None, (1, 1))], 3, 3)


def test_where_something_lies_in_memory_is_no_difference():
    one, other = object(), object()
    assert repr(one) != repr(other)
    assert model_digest([], [one]) == model_digest([], [other]) != model_digest([], ["another"])


def test_values_of_different_versions_are_no_model():
    check_values([Notes(), Notes(COSTS)])
    check_values([Notes(holds="7.4"), Notes(holds="7.4")])
    words = "of versions stage 0 7.4, stage 1 7.5, stage 2 nothing yet. Start the server from a checkpoint"
    with pytest.raises(WireError, match=words) as told:
        check_values([Notes(holds="7.4"), Notes(holds="7.5"), Notes()])
    assert told.value.code is Code.STAGES_DIFFER


def test_an_announcement_is_read_as_it_stands():
    announcement = Announcement()
    write = announcement.write
    announcement.notes = Notes(None, (1, 1))
    assert Notes.read(write(), NAMES).cut == (1, 1)


def digest(model):
    layers = Layers(model)
    return model_digest(layers.specs, (layer.module for layer in layers.layers))


def test_models_with_another_shape_order_or_setting_are_others():
    models = [
        nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(0.1)),
        nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Dropout(0.1)),
        nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Dropout(0.1)),
        nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(0.2)),
        nn.Sequential(nn.Linear(2, 3, dtype=torch.float64), nn.ReLU(), nn.Dropout(0.1)),
    ]
    assert len({digest(model) for model in models}) == len(models)


def test_a_model_is_the_same_on_the_meta_device():
    with torch.device("meta"):
        there = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    assert digest(there) == digest(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
